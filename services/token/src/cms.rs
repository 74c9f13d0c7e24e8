//! Detached CMS signatures, as the signing tool writes them with `--cms` (crypto.md 3.4).

use ::cms::{content_info::ContentInfo, signed_data::SignedData};
use openssl::{
    cms::{CMSOptions, CmsContentInfo},
    error::ErrorStack,
    stack::Stack,
    x509::X509,
};
use x509_cert::der::{Decode, oid::db::rfc5912::ID_SHA_512};

/// The object identifier of signed data in DER, as it stands near the beginning of every such structure.
const SIGNED_DATA: [u8; 11] = [
    0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02,
];

/// The structure, if these bytes are one, in PEM or in DER.
fn parse(signature: &[u8]) -> Option<CmsContentInfo> {
    if signature.trim_ascii_start().starts_with(b"-----BEGIN ") {
        return CmsContentInfo::from_pem(signature).ok();
    }
    // A raw signature of an EC key begins like DER, too.
    let beginning = &signature[..signature.len().min(24)];
    beginning
        .windows(SIGNED_DATA.len())
        .any(|window| window == SIGNED_DATA)
        .then(|| CmsContentInfo::from_der(signature).ok())
        .flatten()
}

/// Whether every signer has hashed with SHA-512 (crypto.md 3.2): openssl would take weaker ones as well.
fn hashes_well(cms: &CmsContentInfo) -> bool {
    let signed = || -> Option<SignedData> {
        let der = cms.to_der().ok()?;
        ContentInfo::from_der(&der).ok()?.content.decode_as().ok()
    };
    signed().is_some_and(|signed| {
        let mut signers = signed.signer_infos.0.iter();
        signers.len() > 0 && signers.all(|signer| signer.digest_alg.oid == ID_SHA_512)
    })
}

/// Whether this is a CMS signature of the signer over the data, or over its form with CRLF line ends, which is
/// what gets signed unless the signer asks for bytes. Who vouches for the signer is another question.
pub fn signed_by(signer: &X509, data: &[u8], signature: &[u8]) -> bool {
    let verify = |data: &[u8]| -> Result<bool, ErrorStack> {
        let Some(mut cms) = parse(signature).filter(hashes_well) else {
            return Ok(false);
        };
        let mut signers = Stack::new()?;
        signers.push(signer.clone())?;
        // Only the signer we were told of, not whoever comes along inside.
        let flags = CMSOptions::NOINTERN | CMSOptions::NO_SIGNER_CERT_VERIFY | CMSOptions::BINARY;
        cms.verify(Some(&signers), None, Some(data), None, flags)?;
        Ok(true)
    };
    verify(data).unwrap_or(false) || verify(&with_crlf(data)).unwrap_or(false)
}

/// Every line end as CRLF; a last line without an end stays without.
fn with_crlf(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + data.len() / 16);
    for line in data.split_inclusive(|byte| *byte == b'\n') {
        match line.strip_suffix(b"\n") {
            None => out.extend_from_slice(line),
            Some(mut text) => {
                while let Some(shorter) = text.strip_suffix(b"\r") {
                    text = shorter;
                }
                out.extend_from_slice(text);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_become_crlf() {
        assert_eq!(with_crlf(b"a\nb\r\n\nc"), b"a\r\nb\r\n\r\nc");
        assert_eq!(with_crlf(b""), b"");
    }
}
