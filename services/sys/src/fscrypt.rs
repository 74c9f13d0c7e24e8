//! Encrypted directories of a file system that can do it by itself (kernel: filesystems/fscrypt).
//!
//! Policies of version 2 only: the kernel derives what it needs from the key, and a key belongs to one mounted
//! file system and goes with it.

use std::{
    os::fd::{AsFd, AsRawFd},
    ptr,
};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::error::{Context, Error, Result};

/// Bytes of a key: the most that the kernel takes.
pub const KEY_LENGTH: usize = 64;

/// By what the kernel knows a key; it gives nothing of the key away.
pub type KeyId = [u8; 16];

/// `struct fscrypt_key_specifier` of linux/fscrypt.h; only identifiers are used.
#[repr(C)]
struct KeySpecifier {
    kind: u32,
    reserved: u32,
    identifier: KeyId,
    rest: [u8; 16],
}

impl KeySpecifier {
    fn new(identifier: KeyId) -> Self {
        Self {
            kind: KEY_SPEC_TYPE_IDENTIFIER,
            reserved: 0,
            identifier,
            rest: [0; 16],
        }
    }
}

/// `struct fscrypt_add_key_arg`, with the key that follows it.
#[repr(C)]
struct AddKey {
    specifier: KeySpecifier,
    raw_size: u32,
    key_id: u32,
    reserved: [u32; 8],
    raw: [u8; KEY_LENGTH],
}

impl Drop for AddKey {
    fn drop(&mut self) {
        self.raw.zeroize();
    }
}

impl ZeroizeOnDrop for AddKey {}

/// `struct fscrypt_policy_v2`.
#[repr(C)]
#[derive(Default)]
struct Policy {
    version: u8,
    contents: u8,
    names: u8,
    flags: u8,
    log2_data_unit_size: u8,
    reserved: [u8; 3],
    key: KeyId,
}

/// `struct fscrypt_get_policy_ex_arg`.
#[repr(C)]
struct GetPolicy {
    size: u64,
    policy: Policy,
}

const KEY_SPEC_TYPE_IDENTIFIER: u32 = 2;
const POLICY_V2: u8 = 2;
const MODE_AES_256_XTS: u8 = 1;
const MODE_AES_256_CTS: u8 = 4;
/// File names are padded to multiples of 32 bytes, so that their length says little.
const FLAGS_PAD_32: u8 = 3;

/// `_IOR('f', 19, struct fscrypt_policy_v1)`: its size is part of the number whatever the version.
const SET_POLICY: libc::Ioctl = 0x800C_6613;
/// `_IOWR('f', 22, __u8[9])`
const GET_POLICY_EX: libc::Ioctl = 0xC009_6616;
/// `_IOWR('f', 23, struct fscrypt_add_key_arg)`
const ADD_KEY: libc::Ioctl = 0xC050_6617;

/// Gives a mounted file system a key; it keeps the key until it is unmounted.
///
/// # Errors
/// The file system or the kernel cannot encrypt.
pub fn add_key(root: impl AsFd, key: &[u8; KEY_LENGTH]) -> Result<KeyId> {
    // On the heap, so that no move leaves a copy behind.
    let mut request = Box::new(AddKey {
        specifier: KeySpecifier::new(KeyId::default()),
        raw_size: 64,
        key_id: 0,
        reserved: [0; 8],
        raw: [0; KEY_LENGTH],
    });
    request.raw.copy_from_slice(key);
    // SAFETY: the request is a live structure of the layout that the kernel expects, its key included.
    let done = unsafe {
        libc::ioctl(
            root.as_fd().as_raw_fd(),
            ADD_KEY,
            ptr::from_mut(&mut *request),
        )
    };
    match done {
        0 => Ok(request.specifier.identifier),
        _ => Err(std::io::Error::last_os_error()).context("give a key to", "file system"),
    }
}

/// Encrypts everything that will ever be in this empty directory.
///
/// # Errors
/// The directory is not empty, or the file system cannot encrypt.
pub fn encrypt(directory: impl AsFd, key: KeyId) -> Result<()> {
    let policy = Policy {
        version: POLICY_V2,
        contents: MODE_AES_256_XTS,
        names: MODE_AES_256_CTS,
        flags: FLAGS_PAD_32,
        key,
        ..Policy::default()
    };
    // SAFETY: the policy is a live structure of the layout that its version announces.
    let done = unsafe { libc::ioctl(directory.as_fd().as_raw_fd(), SET_POLICY, &raw const policy) };
    match done {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).context("encrypt", "directory"),
    }
}

/// Which key a directory is encrypted with.
///
/// # Errors
/// It is not encrypted, or not in this way.
pub fn key_of(directory: impl AsFd) -> Result<KeyId> {
    let mut request = GetPolicy {
        size: size_of::<Policy>() as u64,
        policy: Policy::default(),
    };
    // SAFETY: the request is a live structure that says how much room it has.
    let done = unsafe {
        libc::ioctl(
            directory.as_fd().as_raw_fd(),
            GET_POLICY_EX,
            &raw mut request,
        )
    };
    if done != 0 {
        let error = std::io::Error::last_os_error();
        return Err(error).context("read the encryption policy of", "directory");
    }
    match request.policy.version {
        POLICY_V2 => Ok(request.policy.key),
        _ => Err(Error::invalid(
            "read the encryption policy of",
            "directory",
            "it is of another version",
        )),
    }
}

const _: () = assert!(size_of::<KeySpecifier>() == 40);
const _: () = assert!(size_of::<AddKey>() == 80 + KEY_LENGTH);
const _: () = assert!(size_of::<Policy>() == 24);
