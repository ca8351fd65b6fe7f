//! Manifests, their references and their referrers.

use super::*;
use Provenance::{Cached, Pushed};

#[tokio::test]
async fn a_recorded_manifest_is_found_with_everything_that_was_read_from_it() {
    let index = Index::new().await;
    let subject = digest("subject");
    let manifest = parse(&format!(
        r#"{{"schemaVersion":2,"artifactType":"application/sbom","config":{},"layers":[],
            "subject":{},"annotations":{{"a":"1","ü \"":"\u0000"}}}}"#,
        descriptor(digest("config"), "application/x"),
        descriptor(subject, "application/x"),
    ));
    index.put_manifest(put(&repo("r"), "m", &manifest, Pushed, &[tag("v1"), tag("v2")])).await.unwrap();
    let (row, state) = index.find_manifest(&repo("r"), &digest("m")).await.unwrap().unwrap();
    let expected = ManifestRow {
        digest: digest("m"),
        media_type: manifest.kind.media_type().to_owned(),
        size_bytes: 100,
        subject: Some(subject),
        artifact_type: Some("application/sbom".to_owned()),
        annotations: manifest.annotations.clone(),
        provenance: Pushed,
    };
    assert_eq!((row, state), (expected, BlobState::Present));
    assert!(matches!(index.find_link(&repo("r"), &digest("m")).await.unwrap(), Link::Linked(blob) if blob.pushed));
    assert_eq!(index.list_tags(&repo("r"), None, 9).await.unwrap(), [tag("v1"), tag("v2")]);
    assert_eq!(index.find_tag(&repo("r"), &tag("v2")).await.unwrap().unwrap().provenance, Pushed);
    assert_eq!(index.find_manifest(&repo("other"), &digest("m")).await.unwrap(), None);
    assert!(index.repository(&repo("r")).await.unwrap().unwrap().private);
}

#[tokio::test]
async fn a_manifest_put_twice_keeps_its_media_type_and_becomes_pushed_for_good() {
    let index = Index::new().await;
    let (name, manifest) = (repo("r"), image(&["config", "layer", "layer"]));
    for (provenance, media_type) in [(Cached, "application/first"), (Pushed, "application/second"), (Cached, "x/y")] {
        let new = NewManifest { media_type, ..put(&name, "m", &manifest, provenance, &[]) };
        index.put_manifest(new).await.unwrap();
    }
    let (row, _) = index.find_manifest(&repo("r"), &digest("m")).await.unwrap().unwrap();
    assert_eq!((row.media_type.as_str(), row.provenance), ("application/first", Pushed));
    assert_eq!(index.totals().await.unwrap().n_manifests, 1);
}

#[tokio::test]
async fn references_to_unknown_blobs_make_rows_without_bytes() {
    let index = Index::new().await;
    index.put_manifest(put(&repo("r"), "m", &image(&["config", "layer"]), Cached, &[])).await.unwrap();
    let row = index.find_blob(&digest("layer")).await.unwrap().unwrap();
    assert_eq!((row.state, row.size_bytes, row.stored_bytes), (BlobState::Absent, 10, 0));
    assert_eq!(index.find_link(&repo("r"), &digest("layer")).await.unwrap(), Link::Unknown);
    assert_eq!(index.descriptor_size(&repo("r"), &digest("layer")).await.unwrap(), Some(10));
}

#[tokio::test]
async fn a_manifest_of_very_many_references_is_recorded_whole() {
    let index = Index::new().await;
    let names: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let digests: Vec<Digest> = texts.iter().map(|name| digest(name)).collect();
    index.put_manifest(put(&repo("r"), "m", &image(&texts), Cached, &[])).await.unwrap();
    index.put_manifest(put(&repo("s"), "i", &index_of(&digests), Cached, &[])).await.unwrap();
    let count = async |statement| sqlx::query_scalar::<_, i64>(statement).fetch_one(index.readers()).await.unwrap();
    assert_eq!(count("SELECT COUNT(*) FROM manifest_blob").await, 1000);
    assert_eq!(count("SELECT COUNT(*) FROM manifest_child").await, 1000);
    assert_eq!(count("SELECT COUNT(*) FROM blob WHERE state = 0").await, 1000);
    assert!(!index.recount().await.unwrap());
}

#[tokio::test]
async fn the_newest_manifest_of_the_same_repository_states_the_length_of_a_blob() {
    let index = Index::new().await;
    let stated = |name: &'static str| {
        let index = &index;
        async move { index.descriptor_size(&repo("r"), &digest(name)).await.unwrap() }
    };
    assert_eq!(stated("layer").await, None);
    index.put_manifest(put(&repo("r"), "m", &image(&["config", "layer"]), Cached, &[])).await.unwrap();
    let mut lying = image(&["config", "layer"]);
    lying.blobs[1].size_bytes = u64::MAX;
    index.put_manifest(put(&repo("s"), "n", &lying, Cached, &[])).await.unwrap();
    assert_eq!(stated("layer").await, Some(10), "another repository's claim counts");
    index.put_manifest(put(&repo("r"), "n", &lying, Cached, &[])).await.unwrap();
    assert_eq!(stated("config").await, Some(10));
    assert_eq!(stated("layer").await, Some(i64::MAX as u64));
}

#[tokio::test]
async fn deleting_a_manifest_takes_its_tags_references_and_link_and_nothing_else() {
    let index = Index::new().await;
    let manifest = image(&["config", "layer"]);
    for name in ["r", "s"] {
        index.put_manifest(put(&repo(name), "m", &manifest, Cached, &[tag("v1"), tag("v2")])).await.unwrap();
    }
    index.put_manifest(put(&repo("r"), "n", &manifest, Cached, &[tag("v2")])).await.unwrap();
    assert!(index.delete_manifest(&repo("r"), &digest("m")).await.unwrap());
    assert!(!index.delete_manifest(&repo("r"), &digest("m")).await.unwrap());
    assert_eq!(index.find_manifest(&repo("r"), &digest("m")).await.unwrap(), None);
    assert_eq!(index.list_tags(&repo("r"), None, 9).await.unwrap(), [tag("v2")]);
    assert!(matches!(index.find_link(&repo("r"), &digest("m")).await.unwrap(), Link::Unlinked(_)));
    assert!(index.find_manifest(&repo("s"), &digest("m")).await.unwrap().is_some());
    assert_eq!(index.list_tags(&repo("s"), None, 9).await.unwrap(), [tag("v1"), tag("v2")]);

    for (name, manifest) in [("s", "m"), ("r", "n")] {
        assert!(index.delete_manifest(&repo(name), &digest(manifest)).await.unwrap());
    }
    assert_eq!(index.descriptor_size(&repo("r"), &digest("layer")).await.unwrap(), None, "no reference is left");
    assert!(index.find_blob(&digest("m")).await.unwrap().unwrap().is_present(), "the bytes go by collection alone");
}

#[tokio::test]
async fn an_evicted_manifest_is_still_known() {
    let index = Index::new().await;
    let manifest = image(&["config"]);
    index.put_manifest(put(&repo("r"), "m", &manifest, Cached, &[tag("v1")])).await.unwrap();
    index.mark_deleting(&[digest("m")]).await.unwrap();
    let state = async || index.find_manifest(&repo("r"), &digest("m")).await.unwrap().unwrap().1;
    assert_eq!(state().await, BlobState::Deleting);
    index.mark_absent(&[digest("m")]).await.unwrap();
    assert_eq!(state().await, BlobState::Absent);
    assert!(index.find_tag(&repo("r"), &tag("v1")).await.unwrap().is_some());
    index.put_manifest(put(&repo("r"), "m", &manifest, Cached, &[])).await.unwrap();
    assert_eq!(state().await, BlobState::Present);
}

#[tokio::test]
async fn missing_references_are_those_the_repository_itself_does_not_have() {
    let index = Index::new().await;
    let mut manifest = image(&["config", "here", "elsewhere", "evicted", "unknown", "unknown", "foreign"]);
    manifest.blobs[6].is_foreign = true;
    for (name, blob) in [("r", "config"), ("r", "here"), ("s", "elsewhere"), ("r", "evicted")] {
        index.commit_blob(&repo(name), &digest(blob), 10, 4096, Cached, 1).await.unwrap();
    }
    index.mark_deleting(&[digest("evicted")]).await.unwrap();
    let missing = index.missing_references(&repo("r"), &manifest).await.unwrap();
    let expected = ["elsewhere", "evicted", "unknown"].map(digest).to_vec();
    assert_eq!(missing, Missing { blobs: expected, children: vec![] });

    index.put_manifest(put(&repo("r"), "child", &image(&["config"]), Cached, &[])).await.unwrap();
    index.put_manifest(put(&repo("s"), "foreign child", &image(&["config"]), Cached, &[])).await.unwrap();
    // A blob of the repository is no manifest of it, even if its bytes would be one.
    let list = index_of(&["child", "foreign child", "unknown", "here"].map(digest));
    let missing = index.missing_references(&repo("r"), &list).await.unwrap();
    assert_eq!(missing, Missing { blobs: vec![], children: ["foreign child", "unknown", "here"].map(digest).to_vec() });
    assert_eq!(index.missing_references(&repo("new"), &image(&["config"])).await.unwrap().blobs, [digest("config")]);
}

#[tokio::test]
async fn an_index_may_come_before_its_children() {
    let index = Index::new().await;
    let list = index_of(&[digest("child"), digest("never")]);
    index.put_manifest(put(&repo("r"), "list", &list, Pushed, &[tag("v1")])).await.unwrap();
    assert_eq!(index.missing_references(&repo("r"), &list).await.unwrap().children.len(), 2);
    index.put_manifest(put(&repo("r"), "child", &image(&["config"]), Pushed, &[])).await.unwrap();
    assert_eq!(index.missing_references(&repo("r"), &list).await.unwrap().children, [digest("never")]);
}

#[tokio::test]
async fn referrers_are_paged_by_digest_and_filtered_by_type() {
    let index = Index::new().await;
    let mut manifest = image(&["config"]);
    manifest.subject = Some(digest("subject"));
    let mut names: Vec<String> = (0..7).map(|n| n.to_string()).collect();
    for (n, name) in names.iter().enumerate() {
        manifest.artifact_type = Some(if n % 2 == 0 { "even" } else { "odd" }.to_owned());
        index.put_manifest(put(&repo("r"), name, &manifest, Cached, &[])).await.unwrap();
    }
    index.put_manifest(put(&repo("s"), "0", &manifest, Cached, &[])).await.unwrap();
    index.put_manifest(put(&repo("r"), "no referrer", &image(&["config"]), Cached, &[])).await.unwrap();
    names.sort_by_key(|name| digest(name));
    let subject = digest("subject");
    let page = async |artifact_type: Option<&str>, after: Option<&Digest>, limit| {
        let rows = index.list_referrers(&repo("r"), &subject, artifact_type, after, limit).await.unwrap();
        assert!(rows.iter().all(|row| row.subject == Some(subject)));
        rows.iter().map(|row| row.digest).collect::<Vec<_>>()
    };
    let all: Vec<Digest> = names.iter().map(|name| digest(name)).collect();
    assert_eq!(page(None, None, 100).await, all);
    assert_eq!(page(None, None, 3).await, all[..3]);
    assert_eq!(page(None, Some(&all[2]), 3).await, all[3..6]);
    assert_eq!(page(None, Some(&all[6]), 3).await, []);
    assert_eq!(page(Some("odd"), None, 100).await.len(), 3);
    assert_eq!(page(Some("neither"), None, 100).await, []);

    index.delete_manifest(&repo("r"), &all[0]).await.unwrap();
    assert_eq!(page(None, None, 100).await, all[1..]);
    assert!(index.list_referrers(&repo("r"), &digest("other"), None, None, 9).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_parts_of_a_manifest_are_told_with_what_is_here_of_them() {
    let index = Index::new().await;
    let name = repo("r");
    index.commit_blob(&name, &digest("here"), 10, 4096, Cached, 1).await.unwrap();
    index.commit_blob(&repo("other"), &digest("elsewhere"), 10, 4096, Cached, 1).await.unwrap();
    let manifest = image(&["here", "elsewhere", "nowhere"]);
    index.put_manifest(put(&name, "m", &manifest, Cached, &[])).await.unwrap();
    let parts = index.list_parts(&name, &digest("m"), 9).await.unwrap();
    let told = |content: &str| {
        let part = parts.iter().find(|part| part.digest == digest(content)).unwrap();
        (part.size_bytes, part.is_stored, part.is_linked)
    };
    assert_eq!(parts.len(), 3);
    assert_eq!(told("here"), (10, true, true));
    assert_eq!(told("elsewhere"), (10, true, false));
    assert_eq!(told("nowhere"), (10, false, false));
    assert_eq!(index.list_parts(&name, &digest("m"), 2).await.unwrap().len(), 2);
    assert_eq!(index.list_parts(&repo("other"), &digest("m"), 9).await.unwrap(), []);
}

#[tokio::test]
async fn the_children_of_an_index_are_told_with_what_they_lack() {
    let index = Index::new().await;
    let name = repo("r");
    index.commit_blob(&name, &digest("config"), 10, 4096, Cached, 1).await.unwrap();
    index.put_manifest(put(&name, "amd64", &image(&["config", "layer"]), Cached, &[])).await.unwrap();
    index.put_manifest(put(&repo("other"), "arm64", &image(&["x"]), Cached, &[])).await.unwrap();
    let children = index_of(&[digest("amd64"), digest("arm64")]);
    index.put_manifest(put(&name, "i", &children, Cached, &[])).await.unwrap();
    let child =
        |name: &str, is_here, blobs, missing_bytes| Child { digest: digest(name), is_here, blobs, missing_bytes };
    let told = index.list_children(&name, &digest("i"), 9).await.unwrap();
    assert_eq!(told, [child("amd64", true, 2, 10), child("arm64", false, 0, 0)]);
}
