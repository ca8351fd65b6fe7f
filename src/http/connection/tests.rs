#![expect(clippy::disallowed_methods, reason = "a test is its own client and makes its own files")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::http::sample::{self, PATIENCE};
use crate::http::sendfile::Mapping;

async fn pair(opening: &'static [u8], write_timeout: Duration) -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    (Connection::new(stream, Bytes::from_static(opening), write_timeout), client)
}

#[tokio::test]
async fn memory_and_file_arrive_in_the_order_written() {
    let (mut connection, mut client) = pair(b"", PATIENCE).await;
    let bytes = sample::bytes(300_000);
    let frame = Mapping::of(&sample::blob(&bytes), 10..300_000, connection.mappings()).unwrap().into_bytes();
    let expected = [b"head, ", &bytes[10..], b" and tail"].concat();
    let len = expected.len();
    let reader = tokio::spawn(async move {
        let mut received = vec![0; len];
        client.read_exact(&mut received).await.unwrap();
        received
    });
    let mut queue = Bytes::from_static(b"head, ").chain(frame).chain(Bytes::from_static(b" and tail"));
    while queue.has_remaining() {
        connection.write_buf(&mut queue).await.unwrap();
    }
    assert!(reader.await.unwrap() == expected, "other bytes arrived");
    assert_eq!(connection.mappings().carried_bytes(), 299_990);
}

#[tokio::test]
async fn what_was_read_to_recognise_the_protocol_is_read_again() {
    let (mut connection, mut client) = pair(b"GET / HT", PATIENCE).await;
    client.write_all(b"TP/1.1").await.unwrap();
    let mut read = [0; 14];
    connection.read_exact(&mut read[..3]).await.unwrap();
    connection.read_exact(&mut read[3..]).await.unwrap();
    assert_eq!(&read, b"GET / HTTP/1.1");
}

#[tokio::test]
async fn a_peer_that_accepts_nothing_is_given_up() {
    let (mut connection, client) = pair(b"", Duration::from_millis(50)).await;
    let block = vec![7; 1 << 20];
    let error = loop {
        if let Err(error) = connection.write(&block).await {
            break error;
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    drop(client);
}

#[tokio::test]
async fn an_aborted_connection_ends_with_a_reset() {
    let (connection, mut client) = pair(b"", PATIENCE).await;
    connection.abort_handle().abort();
    drop(connection);
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_that_is_not_aborted_ends_orderly() {
    let (connection, mut client) = pair(b"", PATIENCE).await;
    drop(connection);
    assert_eq!(client.read(&mut [0; 1]).await.unwrap(), 0);
}
