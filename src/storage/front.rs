//! How far a file has come that is written in several places: recorded beside it, so that a crash cannot pass off a file with
//! gaps for one without.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{Error, fs, keys};
use crate::fault;

/// Digits of a record: it is rewritten in place, and always whole.
const DIGITS: usize = 20;

/// The record of one staged file, open.
#[derive(Debug)]
pub struct FrontRecord {
    file: File,
    path: PathBuf,
}

impl FrontRecord {
    pub(super) fn create(staged: &Path, front_bytes: u64) -> Result<Self, Error> {
        let path = keys::front(staged);
        let (file, _) = fs::open_staging(&path)?;
        let record = Self { file, path };
        record.set(front_bytes)?;
        Ok(record)
    }

    /// Every byte before this offset is in the file. Not synced: what a power failure makes of it, the digest finds out.
    pub fn set(&self, front_bytes: u64) -> Result<(), Error> {
        let text = format!("{front_bytes:0DIGITS$}");
        fs::write_at(&self.file, &self.path, 0, text.as_bytes())?;
        fault::point("fill: front recorded");
        Ok(())
    }
}

/// Cuts a staged file down to its recorded front, if there is a record, and removes that.
pub(super) fn settle(file: &File, staged: &Path) -> Result<(), Error> {
    let path = keys::front(staged);
    let Some(bytes) = fs::read(&path)? else { return Ok(()) };
    let front_bytes =
        std::str::from_utf8(&bytes).ok().filter(|text| text.len() == DIGITS).and_then(|text| text.parse().ok());
    fs::shorten(file, staged, front_bytes.unwrap_or(0))?;
    fs::remove(&path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn only_what_is_before_the_recorded_front_is_left_of_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let staged = folder.path().join("staged");
        let (file, _) = fs::open_staging(&staged).unwrap();
        let fill = || file.write_all_at(&[7; 1000], 0).unwrap();
        let left = || file.metadata().unwrap().len();
        fill();
        settle(&file, &staged).unwrap();
        assert_eq!(left(), 1000, "without a record the file is what it is");
        let record = FrontRecord::create(&staged, 0).unwrap();
        record.set(300).unwrap();
        settle(&file, &staged).unwrap();
        assert_eq!(left(), 300);
        assert!(!keys::front(&staged).exists());
        fill();
        FrontRecord::create(&staged, 5000).unwrap();
        settle(&file, &staged).unwrap();
        assert_eq!(left(), 1000, "a file is never made longer");
        FrontRecord::create(&staged, 300).unwrap().file.set_len(7).unwrap();
        settle(&file, &staged).unwrap();
        assert_eq!(left(), 0, "half a record says nothing");
        fill();
        FrontRecord::create(&staged, 300).unwrap().file.set_len(0).unwrap();
        settle(&file, &staged).unwrap();
        assert_eq!(left(), 0, "nor does one whose maker was killed before it wrote");
    }
}
