//! What a guest must not be able to do, and what nobody may be able to do to the host (anchors.md part C).
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

mod containment;
mod control_groups;
mod executables;
mod hostile_images;
mod inheritance;
mod kernel_files;
mod mounts;
mod races;
mod report;
mod secrets;
mod system_calls;
