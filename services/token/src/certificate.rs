//! What openssl does not tell of a certificate: its extensions.

use openssl::x509::X509;
use x509_cert::{
    Certificate,
    der::{
        Decode,
        oid::{
            ObjectIdentifier,
            db::rfc5280::{ANY_EXTENDED_KEY_USAGE, ID_KP_CODE_SIGNING},
        },
    },
    ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage},
};

const CODE_SIGNING: [ObjectIdentifier; 2] = [ID_KP_CODE_SIGNING, ANY_EXTENDED_KEY_USAGE];

/// Bytes and certificates in a file with a chain. Four certificates are a long chain; parsing takes time that
/// nobody has signed for.
const CHAIN_BYTES: usize = 64 << 10;
const CHAIN_LENGTH: usize = 16;

/// The certificates of a file in PEM form, which must not be empty.
pub fn chain(pem: &[u8]) -> Result<Vec<X509>, String> {
    if pem.len() > CHAIN_BYTES {
        return Err(format!(
            "the file has {} bytes, and {CHAIN_BYTES} are the most",
            pem.len()
        ));
    }
    let chain = X509::stack_from_pem(pem)
        .map_err(|error| format!("it is no certificate in PEM form: {error}"))?;
    match chain.len() {
        0 => Err("the file holds no certificate in PEM form".into()),
        length if length > CHAIN_LENGTH => Err(format!(
            "the file holds {length} certificates, and {CHAIN_LENGTH} are the most"
        )),
        _ => Ok(chain),
    }
}

fn parsed<T>(
    certificate: &X509,
    question: impl FnOnce(&Certificate) -> Result<T, x509_cert::der::Error>,
) -> Result<T, String> {
    let der = certificate.to_der().map_err(|error| error.to_string())?;
    Certificate::from_der(&der)
        .and_then(|certificate| question(&certificate))
        .map_err(|error| error.to_string())
}

/// Whether the certificate may sign code: it says nothing about its use, or names this one. A certificate
/// for servers or clients may not, although the same root vouches for it (crypto.md 9.1, number 5).
pub fn may_sign(certificate: &X509) -> Result<bool, String> {
    parsed(certificate, |certificate| {
        let usage = certificate.tbs_certificate.get::<ExtendedKeyUsage>()?;
        Ok(usage.is_none_or(|(_, usage)| usage.0.iter().any(|oid| CODE_SIGNING.contains(oid))))
    })
}

/// Whether the certificate is one of a CA that may sign certificates.
pub fn is_ca(certificate: &X509) -> Result<bool, String> {
    parsed(certificate, |certificate| {
        let body = &certificate.tbs_certificate;
        let ca = body.get::<BasicConstraints>()?;
        let usage = body.get::<KeyUsage>()?;
        Ok(ca.is_some_and(|(_, ca)| ca.ca) && usage.is_none_or(|(_, usage)| usage.key_cert_sign()))
    })
}
