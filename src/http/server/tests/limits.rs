//! What a client may not do, and how serving ends.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

#[tokio::test]
async fn a_tls_hello_is_told_at_once() {
    let site = Site::of(sample::blob(b"")).await;
    let mut client = site.connect().await;
    let mut hello = vec![0x16, 3, 1, 6, 200];
    hello.resize(1741, 0xAB);
    client.write_all(&hello).await.unwrap();
    let (answer, ended) = read_out(&mut client).await;
    ended.expect("an orderly close");
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
}

#[tokio::test]
async fn nonsense_is_refused_at_once() {
    let site = Site::of(sample::blob(b"")).await;
    let mut client = site.connect().await;
    client.write_all(b"\0\0\0\0 something else\r\n\r\n").await.unwrap();
    assert!(read_out(&mut client).await.0.starts_with(b"HTTP/1.1 400 "));
}

#[tokio::test]
async fn a_head_beyond_its_limit_is_refused() {
    let site = Site::of(sample::blob(b"")).await;
    let request = format!("GET / HTTP/1.1\r\nX-Long: {}\r\n\r\n", "x".repeat(80 * 1024));
    let (_, head) = site.ask(&request).await;
    assert!(head.starts_with("HTTP/1.1 431 "), "{head}");
}

#[tokio::test]
async fn a_client_without_a_complete_head_is_closed_in_time() {
    let options = ServerOptions { header_timeout: Duration::from_millis(50), ..ServerOptions::default() };
    let site = Site::with(options, |_| Body::empty().into_response()).await;
    for beginning in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nHost: ent"] {
        let mut client = site.connect().await;
        client.write_all(beginning.as_bytes()).await.unwrap();
        assert_eq!(read_out(&mut client).await.0, b"", "after {beginning:?}");
    }
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut() {
    let file = sample::file(b"");
    file.set_len(1 << 30).unwrap();
    let (blob, dropped) = sample::pinned(BlobReader::whole(file, 1 << 30));
    let asked = Arc::new(Mutex::new(Some(blob)));
    let options = ServerOptions { write_timeout: Duration::from_millis(50), ..ServerOptions::default() };
    let site = Site::with(options, move |request| {
        let blob = asked.lock().unwrap().take().expect("one request");
        answer(&blob, request)
    })
    .await;
    let (client, _) = site.ask(GET).await;
    sample::unpinned(dropped).await;
    drop(client);
}

/// Its socket takes pings and whatever else there is, so the limit on that sees nothing.
#[tokio::test]
async fn a_client_that_stops_reading_one_stream_is_cut() {
    let file = sample::file(b"");
    file.set_len(1 << 30).unwrap();
    let (blob, dropped) = sample::pinned(BlobReader::whole(file, 1 << 30));
    let asked = Arc::new(Mutex::new(Some(blob)));
    let options = ServerOptions { write_timeout: Duration::from_millis(50), ..ServerOptions::default() };
    let metrics = options.metrics.clone();
    let site = Site::with(options, move |request| {
        let blob = asked.lock().unwrap().take().expect("one request");
        answer(&blob, request)
    })
    .await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let unread = client.get(site.url()).send().await.unwrap();
    sample::unpinned(dropped).await;
    assert!(metrics.render().contains(r#"entrepot_refused_total{limit="http.write_timeout"} 1"#));
    drop(unread);
}

/// Asking and taking it back costs a client nothing and the server a request, beyond every limit on requests at a time
/// (CVE-2023-44487).
#[tokio::test]
async fn a_client_that_takes_its_requests_back_as_fast_as_it_sends_them_is_cut() {
    const REQUESTS: u32 = 1000;
    let frame = |kind: u8, flags: u8, stream: u32, payload: &[u8]| {
        let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    };
    let options = ServerOptions::default();
    let metrics = options.metrics.clone();
    let site = Site::with(options, |_| Body::full("answer".into()).into_response()).await;
    let mut flood = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, b"")].concat();
    for stream in (0..REQUESTS).map(|n| 2 * n + 1) {
        // GET / over http at `x`, whole, and CANCEL.
        flood.extend(frame(1, 0x5, stream, &[0x82, 0x84, 0x86, 0x41, 1, b'x']));
        flood.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let mut client = site.connect().await;
    client.write_all(&flood).await.unwrap();
    let (said, _) = read_out(&mut client).await;
    let mut frames = said.as_slice();
    let mut goes_away = None;
    while let [high, middle, low, kind, _, _, _, _, _, rest @ ..] = frames {
        let (payload, next) = rest.split_at(u32::from_be_bytes([0, *high, *middle, *low]) as usize);
        goes_away = (*kind == 7).then(|| payload[4..8].to_vec()).or(goes_away);
        frames = next;
    }
    assert_eq!(goes_away, Some(11_u32.to_be_bytes().to_vec()), "GOAWAY with ENHANCE_YOUR_CALM");
    assert!(metrics.render().contains(r#"entrepot_refused_total{limit="http2_flood"} 1"#));
    assert!(metrics.render().contains(r#"entrepot_limit{limit="http2.resets_max"} 20"#));
    assert!(site.seen.lock().unwrap().len() < REQUESTS as usize / 2, "most of it is not even looked at");
    let (_, head) = site.ask(GET).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "others are served: {head}");
}

#[tokio::test]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let options = ServerOptions { connections_max: 1, ..ServerOptions::default() };
    let answered = Arc::new(AtomicUsize::new(0));
    let site = Site::with(options, {
        let answered = Arc::clone(&answered);
        move |_| {
            answered.fetch_add(1, Ordering::SeqCst);
            Body::full("answer".into()).into_response()
        }
    })
    .await;
    let (first, _) = site.ask(GET).await;
    let mut second = site.connect().await;
    second.write_all(GET.as_bytes()).await.unwrap();
    // Every turn lets the server do all it can: the runtime has one thread.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(answered.load(Ordering::SeqCst), 1);
    drop(first);
    in_time(read_head(&mut second)).await;
    assert_eq!(answered.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn shutdown_lets_a_running_transfer_end_and_takes_no_more() {
    let bytes = sample::bytes(MIB);
    let (fill, blob) = sample::fill(Some(MIB as u64));
    let site = Site::of(blob).await;
    let (mut idle, mut silent) = (site.connect().await, site.connect().await);
    fill.write(&bytes, 0);
    fill.publish(1000);
    let (mut running, _) = site.ask(GET).await;
    let mut received = read_exactly(&mut running, 1000).await;

    site.shutdown.cancel();
    assert_eq!(read_out(&mut idle).await.0, b"");
    assert_eq!(read_out(&mut silent).await.0, b"");
    in_time(async { while TcpStream::connect(site.address).await.is_ok() {} }).await;

    fill.verify(MIB);
    received.extend(read_exactly(&mut running, MIB - 1000).await);
    assert!(received == bytes, "other bytes arrived");
    assert_eq!(read_out(&mut running).await.0, b"");
    assert_eq!(in_time(site.serving).await.unwrap(), Served { connections_cut: 0 });
}

#[tokio::test]
async fn shutdown_cuts_what_outlasts_the_grace() {
    let (_fill, blob) = sample::fill(Some(MIB as u64));
    let options = ServerOptions { shutdown_grace: Duration::from_millis(50), ..ServerOptions::default() };
    let site = Site::with(options, move |request| answer(&blob, request)).await;
    let (mut running, _) = site.ask(GET).await;
    site.shutdown.cancel();
    assert_eq!(in_time(site.serving).await.unwrap(), Served { connections_cut: 1 });
    read_out(&mut running).await.1.unwrap_err();
}

#[test]
fn only_shortage_makes_accepting_pause() {
    use rustix::io::Errno;
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
        assert!(pause_after(&errno.into()).is_some(), "{errno}");
    }
    for errno in [Errno::CONNABORTED, Errno::PERM, Errno::INTR] {
        assert_eq!(pause_after(&errno.into()), None, "{errno}");
    }
}
