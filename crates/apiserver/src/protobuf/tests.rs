use proptest::prelude::*;

use super::*;

/// Writes a field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2, u8::try_from(bytes.len()).expect("short")];
    field.extend_from_slice(bytes);
    field
}

fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &type_meta), field(2, object)].concat()
}

#[test]
fn decodes_a_secret() {
    let labels = field(11, &[field(1, b"app"), field(2, b"x")].concat());
    let metadata = [field(1, b"s"), field(2, b""), field(3, b"default"), labels].concat();
    let data = [field(1, b"key"), field(2, b"\x00\x01")].concat();
    let object = decode(&body("v1", "Secret", &[field(1, &metadata), field(2, &data), field(3, b"Opaque")].concat()));
    let expected = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "default", "labels": {"app": "x"}},
        "data": {"key": "AAE="}, "type": "Opaque",
    });
    assert_eq!(object, Ok(expected));
}

#[test]
fn zero_is_kept_in_pointer_fields() {
    // Deployment.spec.replicas = 0 (a pointer), spec.minReadySeconds = 0 (none).
    let object = decode(&body("apps/v1", "Deployment", &field(2, &[0x08, 0, 0x28, 0])));
    assert_eq!(object.expect("legal")["spec"], json!({"replicas": 0}));
}

#[test]
fn inlined_messages_are_merged() {
    // Volume{name, volumeSource{emptyDir{}}} in a pod's spec.
    let volume = [field(1, b"v"), field(2, &field(2, b""))].concat();
    let object = decode(&body("v1", "Pod", &field(2, &field(1, &volume))));
    assert_eq!(object.expect("legal")["spec"]["volumes"], json!([{"name": "v", "emptyDir": {}}]));
}

#[test]
fn timestamps_and_int_or_string() {
    let created = field(8, &[0x08, 1]);
    let object = decode(&body("v1", "ConfigMap", &field(1, &created))).expect("legal");
    assert_eq!(object["metadata"]["creationTimestamp"], "1970-01-01T00:00:01Z");
    let named = field(4, &[&[0x08, 1][..], &field(3, b"http")].concat());
    let object = decode(&body("v1", "Service", &field(2, &field(1, &named)))).expect("legal");
    assert_eq!(object["spec"]["ports"][0]["targetPort"], "http");
}

#[test]
fn malformed_bodies_are_rejected() {
    assert_eq!(decode(b"{}"), Err(ProtobufError::Magic));
    assert!(matches!(decode(&body("x.io/v1", "Widget", b"")), Err(ProtobufError::Unknown(_))));
    assert!(matches!(decode(&body("v1", "Pod", &[0x0a, 0x7f])), Err(ProtobufError::Malformed(_))));
    let endless = [MAGIC, &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
    assert!(matches!(decode(&endless), Err(ProtobufError::Malformed(_))));
}

#[test]
fn every_referenced_message_is_known() {
    const SPECIAL: [&str; 6] = [
        "meta.v1.Time",
        "meta.v1.MicroTime",
        "resource.Quantity",
        "intstr.IntOrString",
        "runtime.RawExtension",
        "meta.v1.FieldsV1",
    ];
    for (message, fields) in MESSAGES.iter() {
        for FieldDescriptor { name, cardinality, .. } in fields.values() {
            let (Cardinality::Singular(kind) | Cardinality::Repeated(kind) | Cardinality::Map(kind)) = cardinality;
            if let ProtoType::Message(to) = kind {
                let known = MESSAGES.contains_key(to) || SPECIAL.contains(to) || to.ends_with(".ExtraValue");
                assert!(known, "{message}.{name}: {to}");
            }
        }
    }
}

proptest! {
    /// Whatever bytes come, reading them ends, in an object or an error.
    #[test]
    fn any_bytes_are_decoded_or_rejected(bytes in prop::collection::vec(any::<u8>(), 0..300), kind in "Pod|Service|Secret|Deployment") {
        let api_version = if kind == "Deployment" { "apps/v1" } else { "v1" };
        drop(decode(&body_of(api_version, &kind, &bytes)));
        drop(decode(&[MAGIC, &bytes].concat()));
    }
}

fn body_of(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
    let mut length = vec![2 << 3 | 2, u8::try_from(object.len() & 0x7f).expect("seven bits") | 0x80];
    length.push(u8::try_from(object.len() >> 7).expect("short"));
    let type_meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [MAGIC.to_vec(), field(1, &type_meta), length, object.to_vec()].concat()
}
