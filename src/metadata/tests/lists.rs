//! Lists that upstreams gave.

use super::*;

#[tokio::test]
async fn a_list_is_kept_over_a_restart_and_replaced_by_the_next() {
    let index = Index::new().await;
    index.put_list(&repo("r"), None, b"tags".to_vec(), 5, 10_000).await.unwrap();
    index.put_list(&repo("r"), Some(&digest("m")), b"referrers".to_vec(), 6, 10_000).await.unwrap();
    let index = index.reopen().await;
    let row = index.find_list(&repo("r"), None).await.unwrap().unwrap();
    assert_eq!(row, ListRow { body: b"tags".to_vec(), checked_ms: 5 });
    index.put_list(&repo("r"), None, b"other".to_vec(), 7, 10_000).await.unwrap();
    let row = index.find_list(&repo("r"), None).await.unwrap().unwrap();
    assert_eq!(row, ListRow { body: b"other".to_vec(), checked_ms: 7 });
    assert!(index.find_list(&repo("r"), Some(&digest("m"))).await.unwrap().is_some());
    assert_eq!(index.find_list(&repo("other"), None).await.unwrap(), None);
    assert_eq!(index.repository(&repo("r")).await.unwrap(), None, "a list makes no repository");
}

#[tokio::test]
async fn all_lists_together_stay_within_their_bound() {
    let index = Index::new().await;
    let mut last = 0;
    for at in 0..50 {
        last = index.put_list(&repo(&format!("r{at}")), None, vec![b'x'; 744], at, 10_000).await.unwrap();
        assert!(last <= 10_000);
    }
    assert_eq!(last, 10_000);
    let kept = async |at: i64| index.find_list(&repo(&format!("r{at}")), None).await.unwrap().is_some();
    assert_eq!((kept(39).await, kept(40).await, kept(49).await), (false, true, true));
    index.delete_list(&repo("r49"), None).await.unwrap();
    assert_eq!(index.put_list(&repo("r50"), None, vec![b'x'; 744], 50, 10_000).await.unwrap(), 10_000);
    assert!(kept(40).await, "what was forgotten counts no more");
}
