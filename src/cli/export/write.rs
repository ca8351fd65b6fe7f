//! From the plan to the layout, every byte compared with its digest on the way.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use anyhow::{Context as _, ensure};
use futures::StreamExt as _;
use http::header::{CONTENT_LENGTH, RANGE};
use http::{HeaderMap, Method, Response};

use super::plan::{Part, Plan};
use super::{Arguments, Exported, Names, check_names, shown_name};
use crate::cli::door::{AnswerBody, Door, From, accepted, pieces};
use crate::layout::{Directory, Entry, IMAGE_NAME, REF_NAME, TarOut};
use crate::oci::Digest;

/// The answer to a range: it is what was asked for (RFC 9110, 15.3.7).
const PARTIAL_CONTENT: u16 = 206;
/// The answer to a range: there is nothing there (RFC 9110, 15.5.17).
const RANGE_NOT_SATISFIABLE: u16 = 416;

/// Writes what is in the plan and not in `have` to where the user wants it.
pub async fn write(
    door: &Door,
    plan: &Plan,
    have: &HashSet<Digest>,
    from: From,
    to: &Path,
    arguments: &Arguments,
) -> anyhow::Result<Exported> {
    let entries = entries(plan, arguments.names)?;
    let is_left_out = |digest: &Digest| have.contains(digest);
    let manifests = plan.manifests.iter().map(|(digest, part)| (digest, part));
    let blobs = plan.blobs.iter().filter(|(digest, _)| !is_left_out(digest));
    let parts: Vec<(&Digest, &Part)> = manifests.chain(blobs).collect();
    let mut exported = Exported {
        images: plan.roots.len(),
        manifests: plan.manifests.len(),
        blobs: parts.len() - plan.manifests.len(),
        left_out: plan.blobs.keys().filter(|digest| is_left_out(digest)).count(),
        ..Exported::default()
    };
    let is_tar = to.extension().is_some_and(|extension| extension == "tar") || to.is_file();
    if to.as_os_str() != "-" && !is_tar {
        let directory = Directory::create(to)?;
        for (digest, part) in parts {
            let landed = land(door, &directory, digest, part, from, arguments.hard_link).await;
            match landed.with_context(|| format!("{digest} of {}", part.repository))? {
                Some(bytes) => exported.bytes += bytes,
                None => exported.kept += 1,
            }
        }
        directory.finish(&entries)?;
        return Ok(exported);
    }
    let mut out = if is_tar { TarOut::create(to, &entries)? } else { TarOut::pipe(std::io::stdout(), &entries)? };
    for (digest, part) in parts {
        let sent = send(door, &mut out, digest, part, from).await;
        exported.bytes += sent.with_context(|| format!("{digest} of {}", part.repository))?;
    }
    out.finish()?;
    Ok(exported)
}

/// What the layout names.
fn entries(plan: &Plan, names: Names) -> anyhow::Result<Vec<Entry>> {
    let parts: HashMap<&Digest, &Part> = plan.manifests.iter().map(|(digest, part)| (digest, part)).collect();
    let mut named = Vec::new();
    let mut entries: Vec<Entry> = Vec::new();
    for root in &plan.roots {
        let name = shown_name(root, names);
        let mut annotations: BTreeMap<String, String> =
            name.iter().map(|name| (REF_NAME.to_owned(), name.clone())).collect();
        if root.tag.is_some() && names == Names::Full {
            annotations.extend(name.iter().map(|name| (IMAGE_NAME.to_owned(), name.clone())));
        }
        named.push((name, root.digest));
        let part = parts[&root.digest];
        let entry = Entry {
            media_type: part.media_type.clone().unwrap_or_default(),
            digest: root.digest,
            size_bytes: part.size_bytes,
            annotations,
            rest: serde_json::Map::new(),
        };
        entries.push(entry);
    }
    check_names(&named)?;
    let mut seen = HashSet::new();
    entries.retain(|entry| seen.insert((entry.name().map(str::to_owned), entry.digest)));
    Ok(entries)
}

/// Brings one part into a directory. Returns the bytes that were written; nothing if the part was there already.
async fn land(
    door: &Door,
    directory: &Directory,
    digest: &Digest,
    part: &Part,
    from: From,
    by_link: bool,
) -> anyhow::Result<Option<u64>> {
    if directory.holds(digest)? {
        return Ok(None);
    }
    if let (Some(store), From::Stored) = (door.store(), from)
        && directory.share(digest, &store.file_of(digest), by_link)?
    {
        return Ok(Some(part.size_bytes));
    }
    let mut landing = directory.begin(digest)?;
    let before_bytes = landing.length_bytes();
    let mut answer = ask(door, digest, part, from, before_bytes).await?;
    if before_bytes > 0 && answer.status().as_u16() != PARTIAL_CONTENT {
        landing.restart()?;
        // What was there was more than there is.
        if answer.status().as_u16() == RANGE_NOT_SATISFIABLE {
            answer = ask(door, digest, part, from, 0).await?;
        }
    }
    let resumed_bytes = landing.length_bytes();
    let mut pieces = pieces(accepted(answer).await?.into_body());
    while let Some(piece) = pieces.next().await {
        landing.write(&piece?)?;
    }
    let length_bytes = landing.finish()?;
    ensure!(length_bytes == part.size_bytes, "it has {length_bytes} bytes, a manifest says {}", part.size_bytes);
    Ok(Some(length_bytes - resumed_bytes))
}

/// Sends one part into an archive.
async fn send(door: &Door, out: &mut TarOut, digest: &Digest, part: &Part, from: From) -> anyhow::Result<u64> {
    let answer = accepted(ask(door, digest, part, from, 0).await?).await?;
    let length = answer.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length_bytes = length.unwrap_or(part.size_bytes);
    ensure!(length_bytes == part.size_bytes, "it has {length_bytes} bytes, a manifest says {}", part.size_bytes);
    let mut blob = out.archive().blob(*digest, length_bytes)?;
    let mut pieces = pieces(answer.into_body());
    while let Some(piece) = pieces.next().await {
        blob.write(&piece?)?;
    }
    Ok(blob.finish()?)
}

async fn ask(
    door: &Door,
    digest: &Digest,
    part: &Part,
    from: From,
    start_byte: u64,
) -> anyhow::Result<Response<AnswerBody>> {
    let kind = if part.media_type.is_some() { "manifests" } else { "blobs" };
    let mut headers = HeaderMap::new();
    if start_byte > 0 {
        headers.insert(RANGE, format!("bytes={start_byte}-").parse()?);
    }
    door.get(Method::GET, &format!("/v2/{}/{kind}/{digest}", part.repository), from, headers).await
}
