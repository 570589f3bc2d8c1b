#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let made = nacre::fuzzing::zstd_stream(bytes);
    assert!(made <= nacre::fuzzing::bound(bytes.len()), "{made}");
});
