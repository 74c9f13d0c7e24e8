//! Sealing: AES-256-GCM with a random nonce, bound to what the sealed bytes belong to.

use cml_sys::random;
use openssl::{
    error::ErrorStack,
    md::Md,
    pkey::Id,
    pkey_ctx::PkeyCtx,
    symm::{Cipher, decrypt_aead, encrypt_aead},
};
use zeroize::Zeroizing;

/// Bytes of the nonce before the ciphertext (NIST SP 800-38D).
const NONCE: usize = 12;
/// Bytes of the tag after it.
const TAG: usize = 16;

/// Something was not encrypted.
#[derive(Debug, thiserror::Error)]
pub enum CryptoError {
    /// The kernel has no randomness.
    #[error(transparent)]
    Random(#[from] cml_sys::Error),
    /// Openssl could not do it.
    #[error(transparent)]
    Openssl(#[from] ErrorStack),
}

/// Nonce, ciphertext and tag.
///
/// # Errors
/// There is no randomness.
pub fn seal(key: &[u8; 32], binding: &[u8], plain: &[u8]) -> Result<Vec<u8>, CryptoError> {
    let mut sealed = vec![0; NONCE];
    random::fill(&mut sealed)?;
    let mut tag = [0; TAG];
    let text = encrypt_aead(
        Cipher::aes_256_gcm(),
        key,
        Some(&sealed),
        binding,
        plain,
        &mut tag,
    )?;
    sealed.extend(text);
    sealed.extend(tag);
    Ok(sealed)
}

/// What was sealed; `None` if the key or the binding is another one, or a bit has changed.
pub fn open(key: &[u8; 32], binding: &[u8], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (nonce, rest) = sealed.split_at_checked(NONCE)?;
    let (text, tag) = rest.split_at_checked(rest.len().checked_sub(TAG)?)?;
    let plain = decrypt_aead(Cipher::aes_256_gcm(), key, Some(nonce), binding, text, tag);
    plain.ok().map(Zeroizing::new)
}

/// A key of its own for one purpose (HKDF with SHA-256, RFC 5869).
///
/// # Errors
/// Openssl could not do it.
pub fn derive(key: &[u8], purpose: &[u8]) -> Result<Zeroizing<[u8; 32]>, ErrorStack> {
    let mut context = PkeyCtx::new_id(Id::HKDF)?;
    context.derive_init()?;
    context.set_hkdf_md(Md::sha256())?;
    context.set_hkdf_key(key)?;
    context.add_hkdf_info(purpose)?;
    let mut derived = Zeroizing::new([0; 32]);
    context.derive(Some(&mut *derived))?;
    Ok(derived)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_same_key_and_binding_open_what_nobody_has_touched() {
        let sealed = seal(&[1; 32], b"a", b"content").unwrap();
        assert_eq!(
            open(&[1; 32], b"a", &sealed).unwrap().as_slice(),
            b"content"
        );
        assert!(open(&[2; 32], b"a", &sealed).is_none());
        assert!(open(&[1; 32], b"b", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut touched = sealed.clone();
            touched[at] ^= 1;
            assert!(open(&[1; 32], b"a", &touched).is_none());
            assert!(open(&[1; 32], b"a", &sealed[..at]).is_none());
        }
    }

    #[test]
    fn derived_keys_differ_by_purpose() {
        let a = derive(&[7; 32], b"a").unwrap();
        assert_eq!(*a, *derive(&[7; 32], b"a").unwrap());
        assert_ne!(*a, *derive(&[7; 32], b"b").unwrap());
    }
}
