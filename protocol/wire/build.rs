//! Compiles `protocol/proto` without an installed protoc, and keeps the descriptors for the text format.

use std::{env, error::Error, fs, path::Path};

use prost::Message;

const FILES: [&str; 5] = [
    "container.proto",
    "control.proto",
    "device.proto",
    "guestos.proto",
    "service.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=../proto");
    let descriptors = protox::compile(FILES, ["../proto"])?;

    let mut bare = descriptors.clone();
    // Comments are for the generated code; at run time they would only cost memory.
    bare.file
        .iter_mut()
        .for_each(|file| file.source_code_info = None);
    let out = env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?;
    fs::write(
        Path::new(&out).join("descriptors.bin"),
        bare.encode_to_vec(),
    )?;

    prost_build::Config::new()
        .enable_type_names()
        // A PIN travels in these: their Debug is written by hand, in src/redact.rs.
        .skip_debug(["ControllerToDaemon", "ContainerStartParams"])
        .compile_fds(descriptors)?;
    Ok(())
}
