//! Detached signatures over configurations, and the chains that vouch for the signer (crypto.md section 3).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use cml_bus::api::token::{TokenError, VerifySignature};
use cml_wire::proto::ContainerTrust;
use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{Id, PKey, Public},
    rsa::Padding,
    sign::{RsaPssSaltlen, Verifier},
    stack::Stack,
    x509::{
        X509, X509StoreContext,
        store::{X509Store, X509StoreBuilder},
        verify::X509VerifyFlags,
    },
};

use crate::{
    certificate::{chain, may_sign},
    cms,
};

/// Bytes of salt in a PSS signature: as many as the SHA-512 digest has (crypto.md 3.2).
const PSS_SALT: i32 = 64;

/// Bytes of a signature; a CMS one has certificates in it.
const SIGNATURE_BYTES: usize = 64 << 10;

/// The root that every device trusts.
pub const ROOT: &str = "ssig_rootca.cert";
/// Further trusted roots.
pub const MORE_ROOTS: &str = "ca";
/// The root whose signatures are only locally trusted.
pub const LOCAL_ROOT: &str = "localca_rootca.cert";

/// The trusted roots of a device.
#[derive(Debug, Clone)]
pub struct Roots {
    /// The token directory.
    pub dir: PathBuf,
    /// Refuse certificates outside their validity; off while the device's clock cannot be trusted.
    pub enforce_validity: bool,
}

impl Roots {
    /// Checks the chain first, then the signature under the leaf's key.
    ///
    /// # Errors
    /// `BadCertificate`, `BadSignature`, or `BadRoot` when a root cannot be read.
    pub fn verify(&self, request: &VerifySignature) -> Result<ContainerTrust, TokenError> {
        let bad = |error: ErrorStack| TokenError::BadCertificate(error.to_string());
        if request.signature.len() > SIGNATURE_BYTES {
            return Err(TokenError::BadSignature);
        }
        let chain = chain(&request.certificate).map_err(TokenError::BadCertificate)?;
        let (leaf, others) = chain
            .split_first()
            .ok_or_else(|| TokenError::BadCertificate("the file holds no certificate".into()))?;
        let trust = self.trust(leaf, others)?;
        if !may_sign(leaf).map_err(TokenError::BadCertificate)? {
            return Err(TokenError::BadCertificate(
                "its extended key usage is not code signing".into(),
            ));
        }
        let key = leaf.public_key().map_err(bad)?;
        let (data, signature) = (&request.data, &request.signature);
        match signed_by(&key, data, signature) || cms::signed_by(leaf, data, signature) {
            true => Ok(trust),
            false => Err(TokenError::BadSignature),
        }
    }

    /// Why no registered root vouches for the certificate of the device; `None` when one does, or when none is
    /// registered, as nothing is known of the device's CA then (protocol.md 7.2). That a software root vouches is
    /// fine as well.
    ///
    /// # Errors
    /// `BadRoot` when a root cannot be read.
    pub fn refuse_device(
        &self,
        leaf: &X509,
        others: &[X509],
    ) -> Result<Option<String>, TokenError> {
        let mut registered = self.registered()?;
        if registered.is_empty() {
            return Ok(None);
        }
        registered.push(read_roots(&self.dir.join(ROOT))?);
        self.leads_to_any(leaf, others, registered)
    }

    /// The roots of every registered CA, file by file. One that cannot be read vouches for nobody, and takes
    /// nothing from the others: the existing system has stored whatever stood between two marker lines.
    fn registered(&self) -> Result<Vec<Vec<X509>>, TokenError> {
        let mut all = Vec::new();
        for path in entries(&self.dir.join(MORE_ROOTS))? {
            match read_roots(&path) {
                Ok(roots) => all.push(roots),
                Err(error) => {
                    tracing::warn!(%error, "a CA is left out; remove it with `control ca_remove`");
                }
            }
        }
        Ok(all)
    }

    /// As [`Roots::leads_to`] for one file of roots after the other (protocol.md 6.3), so that two roots of one
    /// name do not hide each other. What is said is what the first one says.
    fn leads_to_any(
        &self,
        leaf: &X509,
        others: &[X509],
        files: Vec<Vec<X509>>,
    ) -> Result<Option<String>, TokenError> {
        let mut refusal = None;
        for roots in files {
            match self.leads_to(leaf, others, roots)? {
                None => return Ok(None),
                Some(reason) => refusal = refusal.or(Some(reason)),
            }
        }
        Ok(Some(refusal.unwrap_or_else(|| "no root is trusted".into())))
    }

    fn trust(&self, leaf: &X509, others: &[X509]) -> Result<ContainerTrust, TokenError> {
        let mut files = vec![read_roots(&self.dir.join(ROOT))?];
        files.extend(self.registered()?);
        let Some(refusal) = self.leads_to_any(leaf, others, files)? else {
            return Ok(ContainerTrust::Signed);
        };
        let local = read_roots(&self.dir.join(LOCAL_ROOT))?;
        if !local.is_empty() && self.leads_to(leaf, others, local)?.is_none() {
            return Ok(ContainerTrust::LocallySigned);
        }
        Err(TokenError::BadCertificate(refusal))
    }

    /// `None` when the chain ends in one of the roots, otherwise why it does not.
    pub(crate) fn leads_to(
        &self,
        leaf: &X509,
        others: &[X509],
        roots: Vec<X509>,
    ) -> Result<Option<String>, TokenError> {
        let check = || -> Result<Option<String>, ErrorStack> {
            let store = self.store(roots)?;
            let mut untrusted = Stack::new()?;
            for certificate in others {
                untrusted.push(certificate.clone())?;
            }
            X509StoreContext::new()?.init(&store, leaf, &untrusted, |context| {
                Ok(match context.verify_cert()? {
                    true => None,
                    false => Some(context.error().error_string().to_owned()),
                })
            })
        };
        check().map_err(|error| TokenError::BadCertificate(error.to_string()))
    }

    fn store(&self, roots: Vec<X509>) -> Result<X509Store, ErrorStack> {
        let mut store = X509StoreBuilder::new()?;
        for root in roots {
            store.add_cert(root)?;
        }
        if !self.enforce_validity {
            store.set_flags(X509VerifyFlags::NO_CHECK_TIME)?;
        }
        Ok(store.build())
    }
}

/// SHA-512 throughout. The kind of the key says how it signs: plain RSA keys with PKCS#1 v1.5, those for PSS
/// with PSS (crypto.md 3.2).
fn signed_by(key: &PKey<Public>, data: &[u8], signature: &[u8]) -> bool {
    let fits = || -> Result<bool, ErrorStack> {
        let mut verifier = Verifier::new(MessageDigest::sha512(), key)?;
        match key.id() {
            Id::RSA => verifier.set_rsa_padding(Padding::PKCS1)?,
            Id::RSA_PSS => {
                verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
                verifier.set_rsa_pss_saltlen(RsaPssSaltlen::custom(PSS_SALT))?;
            }
            _ => {}
        }
        verifier.verify_oneshot(signature, data)
    };
    // A signature of the wrong shape is an error to openssl and a wrong signature to us.
    fits().unwrap_or(false)
}

/// Certificates of a file; none when there is no such file.
pub fn read_roots(path: &Path) -> Result<Vec<X509>, TokenError> {
    let bad = |reason: String| TokenError::BadRoot {
        path: path.display().to_string(),
        reason,
    };
    match cml_sys::file::read(path) {
        Ok(pem) => X509::stack_from_pem(&pem).map_err(|error| bad(error.to_string())),
        Err(error) if error.is_absence() => Ok(Vec::new()),
        Err(error) => Err(bad(error.source.to_string())),
    }
}

/// The files of a directory, sorted; none when there is no such directory. What was being written when the
/// power was cut has a hidden name.
pub fn entries(dir: &Path) -> Result<Vec<PathBuf>, TokenError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let paths = fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
        let mut paths = paths.collect::<io::Result<Vec<_>>>()?;
        paths.retain(|path| {
            let name = path.file_name().unwrap_or_default();
            !name.as_encoded_bytes().starts_with(b".")
        });
        paths.sort();
        Ok(paths)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.map_err(|error| TokenError::BadRoot {
            path: dir.display().to_string(),
            reason: error.to_string(),
        }),
    }
}
