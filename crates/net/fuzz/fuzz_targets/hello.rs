//! The ClientHello parser: no input makes it panic, and what it asks for is always more than it has.

#![no_main]

use isthmus_net::hello::{HelloProgress, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(HelloProgress::Needs(total)) = parse(bytes) {
        assert!(total > bytes.len());
    }
    // The same bytes as they would arrive one after another: a refusal is final, and so is a whole hello.
    let mut ended = None;
    for end in 0..=bytes.len().min(512) {
        match (parse(&bytes[..end]), &ended) {
            (Ok(HelloProgress::Needs(_)), None) => {}
            (Ok(HelloProgress::Needs(_)), Some(before)) => panic!("{before:?}, then more was needed"),
            (other, None) => ended = Some(other),
            (other, Some(before)) => assert_eq!(&other, before),
        }
    }
});
