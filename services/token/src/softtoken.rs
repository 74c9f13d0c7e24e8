//! Softtokens: a key in a PKCS#12 file that opens with a PIN (crypto.md 1.1).

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
    rsa::Rsa,
    x509::{
        X509, X509Builder, X509NameBuilder,
        extension::{BasicConstraints, KeyUsage},
    },
};
use zeroize::Zeroizing;

/// The passphrase of a token that nobody has changed yet (design.md section 1).
pub const FIRST_PIN: &str = "trustme";

/// As the existing tokens have (crypto.md 1.1).
const RSA_BITS: u32 = 4096;

/// Rounds of PBKDF2 for the key and of the PKCS#12 derivation for the checksum. Every reader takes any
/// count; this one makes a guess cost about 0.1 s of one core (design.md section 3, "Speed").
const ROUNDS: u32 = 200_000;

/// Days until the certificate beside the key expires. Nobody ever looks at it (crypto.md 1.1).
const VALID_DAYS: u32 = 3650;

/// Makes a token with a new key at `path`, whole or not at all.
///
/// # Errors
/// The file cannot be written, or openssl has no randomness.
pub fn create(path: &Path, name: &str, pin: &Pin) -> Result<(), TokenError> {
    let made = || -> Result<_, ErrorStack> {
        let key = PKey::from_rsa(Rsa::generate(RSA_BITS)?)?;
        let certificate = self_signed(name, &key)?;
        encode(name, &key, &certificate, pin)
    };
    store(path, &made().map_err(|error| unusable(path, error))?)
}

/// Puts the key of a token under another PIN. The file has the old PIN or the new one, whatever happens.
///
/// # Errors
/// As [`check`], or the file cannot be written.
pub fn change(path: &Path, name: &str, old: &Pin, new: &Pin) -> Result<(), TokenError> {
    let opened = open(path, old)?;
    let changed = encode(name, &opened.key, &opened.certificate, new);
    store(path, &changed.map_err(|error| unusable(path, error))?)
}

fn store(path: &Path, bytes: &[u8]) -> Result<(), TokenError> {
    cml_sys::atomic::write(path, bytes, 0o600).map_err(|error| unusable(path, error))
}

fn encode(
    name: &str,
    key: &PKey<Private>,
    certificate: &X509,
    pin: &Pin,
) -> Result<Zeroizing<Vec<u8>>, ErrorStack> {
    let token = Pkcs12::builder()
        .name(name)
        .pkey(key)
        .cert(certificate)
        .key_iter(ROUNDS)
        .mac_iter(ROUNDS)
        .build2(pin.expose())?;
    Ok(Zeroizing::new(token.to_der()?))
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

/// Whether the PIN opens the token.
///
/// # Errors
/// `WrongPin`, or `Unusable` when the file is missing or damaged.
pub fn check(path: &Path, pin: &Pin) -> Result<(), TokenError> {
    open(path, pin).map(drop)
}

/// A token that is open.
struct Opened {
    key: PKey<Private>,
    certificate: X509,
}

fn open(path: &Path, pin: &Pin) -> Result<Opened, TokenError> {
    let der = file::read(path).map_err(|error| unusable(path, error.source))?;
    let der = Zeroizing::new(der);
    let token = Pkcs12::from_der(&der).map_err(|error| unusable(path, error))?;
    // No PIN that can be typed holds a NUL, and openssl's strings end at one.
    if pin.expose().contains('\0') {
        return Err(TokenError::WrongPin);
    }
    match token.parse2(pin.expose()) {
        Ok(parsed) => match parsed.pkey.zip(parsed.cert) {
            Some((key, certificate)) => Ok(Opened { key, certificate }),
            None => Err(unusable(path, "it lacks a private key or its certificate")),
        },
        Err(error) if is_wrong_pin(&error) => Err(TokenError::WrongPin),
        Err(error) => Err(unusable(path, error)),
    }
}

/// PKCS12_R_MAC_VERIFY_FAILURE of openssl/pkcs12err.h: the checksum under this PIN is another one. Every
/// other error is one of the file.
fn is_wrong_pin(error: &ErrorStack) -> bool {
    const MAC_VERIFY_FAILURE: i32 = 113;
    error
        .errors()
        .iter()
        .any(|error| error.reason_code() == MAC_VERIFY_FAILURE)
}

/// The token at this path, or what belongs to it, cannot be used.
pub(crate) fn unusable(path: &Path, reason: impl ToString) -> TokenError {
    TokenError::Unusable {
        path: path.display().to_string(),
        reason: reason.to_string(),
    }
}
