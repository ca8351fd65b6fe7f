//! Upload sessions.

use super::*;
use crate::oci::UploadId;

fn session(algorithm: Option<Algorithm>, touched_ms: i64) -> UploadRow {
    UploadRow { id: UploadId::random(), repo: repo("not/yet"), algorithm, started_ms: 1, touched_ms }
}

#[tokio::test]
async fn a_session_lives_over_a_restart_until_it_is_deleted() {
    let mut index = Index::new().await;
    let sessions = [session(None, 1), session(Some(Algorithm::Sha256), 1), session(Some(Algorithm::Sha512), 1)];
    for session in &sessions {
        index.insert_upload(session).await.unwrap();
    }
    index = index.reopen().await;
    assert_eq!(index.count_uploads().await.unwrap(), 3);
    for session in &sessions {
        assert_eq!(index.find_upload(&session.id).await.unwrap().as_ref(), Some(session));
        assert!(index.delete_upload(&session.id).await.unwrap());
        assert!(!index.delete_upload(&session.id).await.unwrap());
        assert_eq!(index.find_upload(&session.id).await.unwrap(), None);
        assert!(!index.touch_upload(&session.id, 9).await.unwrap());
    }
    assert_eq!(index.count_uploads().await.unwrap(), 0);
    assert!(index.list_repositories(None, 9).await.unwrap().is_empty(), "a session alone makes no repository");
}

#[tokio::test]
async fn only_sessions_idle_since_before_the_time_are_listed() {
    let index = Index::new().await;
    let (old, older, busy) = (session(None, 20), session(None, 10), session(None, 10));
    for session in [&old, &older, &busy] {
        index.insert_upload(session).await.unwrap();
    }
    assert!(index.touch_upload(&busy.id, 30).await.unwrap());
    assert_eq!(index.list_uploads_before(30).await.unwrap(), [older.clone(), old]);
    assert_eq!(index.list_uploads_before(20).await.unwrap(), [older]);
    assert!(index.list_uploads_before(10).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_name_that_is_taken_is_refused_with_the_operation_and_the_name() {
    let index = Index::new().await;
    let session = session(None, 1);
    index.insert_upload(&session).await.unwrap();
    let error = index.insert_upload(&session).await.unwrap_err();
    assert_eq!(error.to_string(), format!("cannot open upload session {}", session.id));
}
