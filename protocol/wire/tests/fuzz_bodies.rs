//! The bodies of the fuzz targets, over inputs that the stable toolchain can make.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::{fs, path::Path};

use proptest::{prelude::*, sample::select, test_runner::TestRunner};

#[path = "../fuzz/src/lib.rs"]
mod bodies;

/// More than proptest's usual 256: most random inputs are refused early.
const CASES: u32 = 3000;

/// The committed inputs of a fuzz target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut seeds: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| fs::read(entry.unwrap().path()).unwrap())
        .collect();
    assert!(seeds.len() > 3);
    // Directories have no order, and a failure has to come again.
    seeds.sort();
    seeds
}

/// A seed in which a few bytes were changed, put in or left out.
fn damaged(target: &str) -> impl Strategy<Value = Vec<u8>> + use<> {
    let damage = prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<u8>()), 0..6);
    (select(seeds(target)), damage).prop_map(|(mut bytes, damage)| {
        for (at, kind, byte) in damage {
            let at = at.index(bytes.len() + 1);
            match kind {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => bytes[at] = byte,
                _ if at < bytes.len() => drop(bytes.remove(at)),
                _ => {}
            }
        }
        bytes
    })
}

/// Words of the text form in any order: far more of these are accepted than of random bytes.
fn words(of: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(select(of), 0..24).prop_map(|words| words.join(" ").into_bytes())
}

fn check(inputs: impl Strategy<Value = Vec<u8>>, body: fn(&[u8])) {
    let config = ProptestConfig {
        cases: CASES,
        // The seeds in `fuzz/seeds` are what is kept.
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&inputs, |input| {
        body(&input);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..120)
}

#[test]
fn however_a_stream_is_cut_the_same_messages_come_out() {
    // Short frames one after the other, then anything.
    let frames = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6);
    let stream = (any::<[u8; 4]>(), frames, bytes()).prop_map(|(cuts, frames, rest)| {
        let mut stream = cuts.to_vec();
        for body in frames {
            stream.extend((body.len() as u32).to_be_bytes());
            stream.extend(body);
        }
        stream.extend(rest);
        stream
    });
    check(prop_oneof![stream, damaged("frame")], bodies::frame);
}

#[test]
fn requests_that_are_accepted_survive_being_written() {
    let inputs = prop_oneof![1 => bytes(), 4 => damaged("control_message")];
    check(inputs, bodies::control_message);
}

#[test]
fn container_configs_that_are_read_are_written_so_that_they_read_the_same() {
    let fields = words(&[
        "name: \"c\"",
        "name: 'd\\n\\377'",
        "guest_os: \"g\"",
        "guest_os: \"\u{fc}\" '\\001'",
        "guestos_version: 18446744073709551615",
        "color: 0xffffffff",
        "color: 07",
        "type: KVM",
        "token_type: 1",
        "userns: f",
        "init_env: [\"A=1\", 'B']",
        "init_env: \"C\";",
        "image_sizes { image_name: \"e\" image_size: 1 }",
        "vnet_configs < if_name: \"e\" configure: 1 >",
        "usb_configs: { id: \"\" serial: \"\" }",
        "net_ifaces { netif: \"e\" mac_filter: [] }",
        "# and so on\r\n",
        "{",
        "}",
    ]);
    check(
        prop_oneof![fields, damaged("container_conf")],
        bodies::container_conf,
    );
}

#[test]
fn guest_os_configs_that_are_read_are_written_so_that_they_read_the_same() {
    let fields = words(&[
        "name: \"g\"",
        "hardware: \"x\"",
        "version: 3",
        "version: 4,",
        "description { en: \"\" }",
        "description_long { en: \"l\" de: '\\t' }",
        "mounts { image_file: \"r\" mount_point: \"/\" fs_type: \"squashfs\" }",
        "mounts_setup < image_file: \"\" mount_point: \"\" fs_type: \"\" mount_type: 12 def_size: 0 >",
        "icon: \"\\377\\000\" \"\\x7f\"",
        "init_param: [\"a\" 'b']",
        "boot_report: 2",
        "init_mode: INIT_EXEC",
        "stop_signal: \"SIGRTMIN+3\"",
        "feature_bg_booting: t",
        "]",
    ]);
    check(
        prop_oneof![fields, damaged("guestos_conf")],
        bodies::guestos_conf,
    );
}
