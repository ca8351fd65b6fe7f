//! Upload sessions: every way to push a blob, every way in which that is interrupted, and what is left of it then.

mod chunks;
mod ends;
mod limits;
mod resume;
