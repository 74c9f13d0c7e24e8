//! The token format of the existing system: an RSA key in a PKCS#12 file (crypto.md 1.1).

use std::path::Path;

use cml_bus::{api::token::TokenError, secret::Pin};
use cml_sys::file;
use openssl::{
    asn1::Asn1Time,
    bn::{BigNum, MsbOption},
    error::ErrorStack,
    hash::MessageDigest,
    nid::Nid,
    pkcs12::Pkcs12,
    pkey::{PKey, Private},
    provider::Provider,
    rsa::Rsa,
    x509::{
        X509, X509Builder, X509NameBuilder,
        extension::{BasicConstraints, KeyUsage},
    },
};
use zeroize::Zeroizing;

use super::unusable;
use crate::keyring::Keyring;

/// As the existing tokens have (crypto.md 1.1).
const RSA_BITS: u32 = 4096;

/// Rounds of PBKDF2 for the key and of the PKCS#12 derivation for the checksum. Every reader takes any
/// count; this one makes a guess cost about 0.1 s of one core (design.md section 3, "Speed").
const ROUNDS: u32 = 200_000;

/// Days until the certificate beside the key expires. Nobody ever looks at it (crypto.md 1.1).
const VALID_DAYS: u32 = 3650;

/// A new key for a token of this format.
///
/// # Errors
/// Openssl has no randomness.
pub fn fresh() -> Result<Keyring, ErrorStack> {
    Ok(Keyring::of_rsa(PKey::from_rsa(Rsa::generate(RSA_BITS)?)?))
}

/// The content of a token file.
///
/// # Errors
/// Openssl could not do it, or the key ring has no RSA key.
pub fn encode(keyring: &Keyring, name: &str, pin: &Pin) -> Result<Zeroizing<Vec<u8>>, String> {
    let key = keyring.rsa().ok_or("it has no RSA key")?;
    let encoded = || -> Result<_, ErrorStack> {
        let certificate = self_signed(name, key)?;
        let token = Pkcs12::builder()
            .name(name)
            .pkey(key)
            .cert(&certificate)
            .key_iter(ROUNDS)
            .mac_iter(ROUNDS)
            .build2(pin.expose())?;
        Ok(Zeroizing::new(token.to_der()?))
    };
    encoded().map_err(|error| error.to_string())
}

/// PKCS#12 wants a certificate beside the key.
fn self_signed(name: &str, key: &PKey<Private>) -> Result<X509, ErrorStack> {
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, name)?;
    let subject = subject.build();
    let mut serial = BigNum::new()?;
    // 20 octets at most (RFC 5280), and positive.
    serial.rand(159, MsbOption::MAYBE_ZERO, false)?;

    let mut certificate = X509Builder::new()?;
    certificate.set_version(2)?;
    certificate.set_serial_number(&*serial.to_asn1_integer()?)?;
    certificate.set_subject_name(&subject)?;
    certificate.set_issuer_name(&subject)?;
    certificate.set_pubkey(key)?;
    certificate.set_not_before(&*Asn1Time::days_from_now(0)?)?;
    certificate.set_not_after(&*Asn1Time::days_from_now(VALID_DAYS)?)?;
    certificate.append_extension(BasicConstraints::new().critical().build()?)?;
    certificate.append_extension(KeyUsage::new().critical().key_encipherment().build()?)?;
    certificate.sign(key, MessageDigest::sha256())?;
    Ok(certificate.build())
}

/// Opens a token file, whatever ciphers and however many rounds its writer chose.
///
/// # Errors
/// `WrongPin`, or `Unusable` when the file is missing or damaged.
pub fn open(path: &Path, pin: &Pin) -> Result<Keyring, TokenError> {
    let der = file::read(path).map_err(|error| unusable(path, error.source))?;
    let der = Zeroizing::new(der);
    // No PIN that can be typed holds a NUL, and openssl's strings end at one.
    if pin.expose().contains('\0') {
        return Err(TokenError::WrongPin);
    }
    let parse = || Pkcs12::from_der(&der)?.parse2(pin.expose());
    let parsed = match parse() {
        // OpenSSL 1.1 wrote RC2-40, which 3.x only knows on demand (crypto.md 1.1).
        Err(error) if has_reason(&error, UNSUPPORTED) => {
            with_legacy_ciphers(parse).map_err(|error| unusable(path, error))?
        }
        Err(error) if has_reason(&error, MAC_VERIFY_FAILURE) => return Err(TokenError::WrongPin),
        other => other.map_err(|error| unusable(path, error))?,
    };
    match parsed.pkey {
        Some(key) if key.rsa().is_ok() => Ok(Keyring::of_rsa(key)),
        _ => Err(unusable(path, "it holds no private RSA key")),
    }
}

/// PKCS12_R_MAC_VERIFY_FAILURE of openssl/pkcs12err.h: the checksum under this PIN is another one. Every
/// other error is one of the file.
const MAC_VERIFY_FAILURE: i32 = 113;
/// ERR_R_UNSUPPORTED of openssl/err.h, without its flags: no loaded provider has the cipher.
const UNSUPPORTED: i32 = 268;

fn has_reason(error: &ErrorStack, reason: i32) -> bool {
    let mask = 0xFFF;
    error
        .errors()
        .iter()
        .any(|error| error.reason_code() & mask == reason)
}

/// The legacy provider is there only while such a token is read: nothing else may use its ciphers.
fn with_legacy_ciphers<T>(job: impl FnOnce() -> Result<T, ErrorStack>) -> Result<T, ErrorStack> {
    let _legacy = Provider::try_load(None, "legacy", true)?;
    job()
}
