use bytes::{Bytes, BytesMut};
use serde_json::json;

use super::options::StreamOptions;
use super::proxy::ProxyTarget;
use super::spdy::{self, Inflater, InvalidBlock, SpdyError, SpdyFrame};

/// Header blocks compressed by zlib with the dictionary of SPDY/3 (level 9, flushed after each): `streamtype`, `port`
/// and `requestid` of an error stream and of its data stream.
const ERROR_STREAM: &str =
    "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff";
const DATA_STREAM: &str = "c2aa19540e2512d60b000000ffff";

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn header_blocks_share_one_compressed_stream() {
    let mut inflater = Inflater::new();
    let first = spdy::headers(inflater.inflate(&hex(ERROR_STREAM)).expect("inflates")).expect("headers");
    assert_eq!(first, pairs(&[("streamtype", "error"), ("port", "8080"), ("requestid", "0")]));
    let second = spdy::headers(inflater.inflate(&hex(DATA_STREAM)).expect("inflates")).expect("headers");
    assert_eq!(second, pairs(&[("streamtype", "data"), ("port", "8080"), ("requestid", "0")]));
    let out_of_order = Inflater::new().inflate(&hex(DATA_STREAM));
    assert_eq!(out_of_order, Err(InvalidBlock));
}

#[test]
fn written_frames_can_be_read() {
    let mut writer = spdy::SpdyWriter::new();
    let mut inflater = Inflater::new();
    for stream in [1, 3] {
        let reply = writer.reply(stream);
        assert_eq!(reply[..4], [0x80, 3, 0, 2]);
        assert_eq!(reply[8..12], stream.to_be_bytes());
        let headers = inflater.inflate(&reply[12..]).expect("inflates");
        assert_eq!(spdy::headers(headers), Ok(Vec::new()));
    }
    let mut buffer = BytesMut::from(&spdy::data(5, b"hello", true)[..]);
    buffer.extend_from_slice(&spdy::pong(7));
    buffer.extend_from_slice(&spdy::reset(9));
    let expected = [
        SpdyFrame::Data { stream: 5, fin: true, data: Bytes::from_static(b"hello") },
        SpdyFrame::Ping { id: 7 },
        SpdyFrame::Reset { stream: 9 },
    ];
    for frame in expected {
        assert_eq!(spdy::next_frame(&mut buffer), Ok(Some(frame)));
    }
    assert_eq!(spdy::next_frame(&mut buffer), Ok(None));
}

#[test]
fn partial_and_malformed_frames() {
    let whole = spdy::data(1, b"abc", false);
    for cut in 0..whole.len() {
        assert_eq!(spdy::next_frame(&mut BytesMut::from(&whole[..cut])), Ok(None));
    }
    let mut long = BytesMut::from(&[0, 0, 0, 1, 0, 0xff, 0xff, 0xff][..]);
    assert_eq!(spdy::next_frame(&mut long), Err(SpdyError::TooLong(0x00ff_ffff)));
    let mut other = BytesMut::from(&[0x80, 2, 0, 1, 0, 0, 0, 0][..]);
    assert_eq!(spdy::next_frame(&mut other), Err(SpdyError::Version(2)));
    let mut short = BytesMut::from(&[0x80, 3, 0, 1, 0, 0, 0, 1, 9][..]);
    assert_eq!(spdy::next_frame(&mut short), Err(SpdyError::Short));
    assert_eq!(spdy::headers(Bytes::from_static(&[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff])), Err(SpdyError::Headers));
    assert_eq!(spdy::headers(Bytes::from_static(&[0xff; 8])), Err(SpdyError::Headers));
}

#[test]
fn corrupt_header_blocks_do_not_panic() {
    let valid = hex(ERROR_STREAM);
    for at in 0..valid.len() {
        for bit in 0..8 {
            let mut broken = valid.clone();
            broken[at] ^= 1 << bit;
            // Any result is correct, but no panic and no endless loop.
            if let Ok(block) = Inflater::new().inflate(&broken) {
                let _ = spdy::headers(block);
            }
        }
        let _ = Inflater::new().inflate(&valid[..at]);
    }
}

#[test]
fn header_blocks_are_bounded() {
    for (size, accepted) in [(600, true), (60_000, true), (64 * 1024, false), (8 << 20, false)] {
        let mut compress = flate2::Compress::new(flate2::Compression::best(), true);
        let mut block = Vec::with_capacity(32 * 1024);
        compress.compress_vec(&vec![0; size], &mut block, flate2::FlushCompress::Sync).expect("compresses");
        assert_eq!(Inflater::new().inflate(&block).is_ok(), accepted, "{size}");
    }
}

#[test]
fn query_parameters() {
    let options =
        StreamOptions::parse("command=sh&command=-c&command=echo+a%20b&stdin=true&tty=1&stdout=false&container=app")
            .expect("valid");
    assert_eq!(options.command, ["sh", "-c", "echo a b"]);
    assert!(options.stdin && options.tty && !options.stdout);
    assert_eq!(options.container.as_deref(), Some("app"));
    assert_eq!(StreamOptions::parse("ports=80,443&ports=8080").expect("valid").ports, [80, 443, 8080]);
    assert!(StreamOptions::parse("ports=0x50").expect_err("not a port").message.contains("0x50"));
    assert!(StreamOptions::parse("tailLines=-1").is_err());
    assert!(StreamOptions::parse("sinceTime=yesterday").is_err());
    assert!(StreamOptions::parse("sinceTime=2000-01-01T00:00:00Z").expect("valid").since_seconds > Some(700_000_000));
}

#[test]
fn the_requested_or_default_container() {
    let pod = json!({"metadata": {"name": "web"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}], "initContainers": [{"name": "i"}]}});
    let named = |name: &str| StreamOptions { container: Some(name.to_owned()), ..StreamOptions::default() };
    assert_eq!(named("i").container(&pod), Ok("i"));
    assert_eq!(named("x").container(&pod).expect_err("absent").message, "container x is not valid for pod web");
    assert_eq!(
        StreamOptions::default().container(&pod).expect_err("ambiguous").message,
        "a container name must be specified for pod web, choose one of: [a b] or one of the init containers: [i]"
    );
    let single = json!({"spec": {"containers": [{"name": "a"}]}});
    assert_eq!(StreamOptions::default().container(&single), Ok("a"));
    let mut annotated = pod;
    annotated["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/default-container": "b"});
    assert_eq!(StreamOptions::default().container(&annotated), Ok("b"));
}

#[test]
fn proxy_targets() {
    let target = |https, name: &str, port: Option<&str>| {
        Some(ProxyTarget { https, name: name.to_owned(), port: port.map(str::to_owned) })
    };
    assert_eq!(ProxyTarget::parse("web"), target(false, "web", None));
    assert_eq!(ProxyTarget::parse("web:80"), target(false, "web", Some("80")));
    assert_eq!(ProxyTarget::parse("https:web:metrics"), target(true, "web", Some("metrics")));
    assert_eq!(ProxyTarget::parse("http:web:"), target(false, "web", None));
    for wrong in ["", ":80", "ftp:web:1", "a:b:c:d"] {
        assert_eq!(ProxyTarget::parse(wrong), None, "{wrong}");
    }
}
