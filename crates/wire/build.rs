//! Compiles the protocol files without `protoc`.
//!
//! Byte fields become `bytes::Bytes`, so that a decoded message shares the buffer that it came in. Maps become
//! `BTreeMap`s, so that equal messages have equal encodings: versions are hashes of the encoding.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(
        [
            "envoy/service/discovery/v3/discovery.proto",
            "isthmus/discovery/v1/resources.proto",
            "istio/v1/auth/ca.proto",
        ],
        ["proto"],
    )?;
    tonic_prost_build::configure().bytes(".").btree_map(".").compile_fds(files)?;
    Ok(())
}
