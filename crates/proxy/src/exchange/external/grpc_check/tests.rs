use http::HeaderMap;
use wire::ext_authz::{DeniedHttpResponse, HeaderValue as Value, HttpStatus, Status};

use super::*;
use wire::prost::Message as _;

fn answer(grpc_status: Option<&'static str>, body: &[u8]) -> Answer {
    let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
    let mut trailers = HeaderMap::new();
    if let Some(status) = grpc_status {
        trailers.insert("grpc-status", HeaderValue::from_static(status));
    }
    Answer { head: response.into_parts().0, body: Bytes::copy_from_slice(body), trailers: Some(trailers) }
}

fn framed(response: &CheckResponse) -> Vec<u8> {
    let message = response.encode_to_vec();
    [&[0, 0, 0, 0, u8::try_from(message.len()).unwrap()], &message[..]].concat()
}

#[test]
fn what_is_no_answer_decides_nothing() {
    for (status, body, expected) in [
        (None, &[0, 0, 0, 0, 0][..], "no gRPC status"),
        (Some("14"), &[0, 0, 0, 0, 0], "gRPC status 14"),
        (Some("0"), &[], "no message"),
        (Some("0"), &[1, 0, 0, 0, 0], "compressed"),
        (Some("0"), &[0, 0, 0, 0, 9, 1], "not one message"),
        (Some("0"), &[0, 0xff, 0xff, 0xff, 0xff, 1], "not one message"),
        (Some("0"), &[0, 0, 0, 0, 2, 0xff, 0xff], "cannot be read"),
    ] {
        let error = verdict(answer(status, body)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
    let mut html = answer(Some("0"), b"");
    html.head.headers.insert("content-type", HeaderValue::from_static("text/html"));
    assert!(verdict(html).unwrap_err().contains("not gRPC"));
}

#[test]
fn a_denial_has_a_status_in_any_case() {
    for (code, expected) in [(0, 403), (99, 403), (600, 403), (-1, 403), (429, 429)] {
        let denied = DeniedHttpResponse { status: Some(HttpStatus { code }), ..Default::default() };
        let response = CheckResponse {
            status: Some(Status { code: 7, message: String::new() }),
            http_response: Some(HttpResponse::DeniedResponse(denied)),
        };
        let Ok(Verdict::Denied(denial)) = verdict(answer(Some("0"), &framed(&response))) else { panic!("{code}") };
        assert_eq!(denial.status.as_u16(), expected);
    }
}

#[test]
fn headers_are_changed_as_the_answer_says() {
    let option = |key: &str, append, action: HeaderAppendAction| HeaderValueOption {
        header: Some(Value { key: key.into(), value: "v".into(), raw_value: Bytes::new() }),
        append,
        append_action: action.into(),
    };
    use HeaderAppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let ok = OkHttpResponse {
        headers: vec![option("a", None, AppendIfExistsOrAdd), option("b", Some(true), AppendIfExistsOrAdd)],
        headers_to_remove: vec!["c".into(), ":path".into()],
        response_headers_to_add: vec![
            option("d", None, AppendIfExistsOrAdd),
            option("e", Some(false), AppendIfExistsOrAdd),
            option("f", None, AddIfAbsent),
            option("g", None, OverwriteIfExistsOrAdd),
            option("h", None, OverwriteIfExists),
            option(":status", None, OverwriteIfExists),
        ],
        ..Default::default()
    };
    let response = CheckResponse { status: None, http_response: Some(HttpResponse::OkResponse(ok)) };
    let Ok(Verdict::Allowed(changes)) = verdict(answer(Some("0"), &framed(&response))) else { panic!() };
    let value = || HeaderValue::from_static("v");
    let named = |name: &'static str, change| Edit { name: HeaderName::from_static(name), change };
    assert_eq!(
        changes.request,
        [named("a", Change::Set(value())), named("b", Change::AddToPresent(value())), named("c", Change::Remove)]
    );
    assert_eq!(
        changes.response,
        [
            named("d", Change::Add(value())),
            named("e", Change::Set(value())),
            named("f", Change::AddToAbsent(value())),
            named("g", Change::Set(value())),
            named("h", Change::SetPresent(value()))
        ]
    );
}
