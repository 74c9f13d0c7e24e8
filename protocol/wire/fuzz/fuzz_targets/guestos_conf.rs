#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| cml_wire_fuzz::guestos_conf(data));
