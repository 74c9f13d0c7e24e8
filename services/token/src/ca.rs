//! The registered CAs: which there are, one more, one less (crypto.md 3.6, protocol.md 6.9).

use std::{fs, path::PathBuf};

use cml_bus::api::token::TokenError;
use cml_sys::{atomic, file};
use cml_wire::proto::{CaCertificate, ca_certificate::Kind};
use openssl::{
    error::ErrorStack,
    hash::{MessageDigest, hash},
    x509::{X509, X509NameRef},
};

use crate::{
    certificate::{chain, is_ca},
    signature::{LOCAL_ROOT, MORE_ROOTS, ROOT, Roots, entries, read_roots},
};

/// The id of the local CA.
const LOCAL: &str = "local";
/// The id of the root that came with the device.
const VENDOR: &str = "vendor";

fn refused(reason: impl ToString) -> TokenError {
    TokenError::BadCa(reason.to_string())
}

fn store_failed(error: cml_sys::Error) -> TokenError {
    TokenError::BadRoot {
        reason: format!("{}: {}", error.action, error.source),
        path: error.subject,
    }
}

impl Roots {
    /// Trusts a CA from now on; `false` when it was trusted before.
    ///
    /// # Errors
    /// `BadCa` for what is no CA, `BadRoot` when it cannot be stored.
    pub fn register(&self, pem: &[u8], local: bool) -> Result<bool, TokenError> {
        let certificates = self.checked(pem)?;
        let bytes = canonical(&certificates).map_err(refused)?;
        let path = match local {
            true => self.dir.join(LOCAL_ROOT),
            false => {
                let sum = hash(MessageDigest::sha1(), &bytes).map_err(refused)?;
                self.dir.join(MORE_ROOTS).join(hex::encode(sum))
            }
        };
        match file::read(&path) {
            Ok(present) if present == bytes => return Ok(false),
            Ok(_) if local => {
                return Err(refused(
                    "there is a local CA already; remove it with `control ca_remove local`",
                ));
            }
            Ok(_) => {}
            Err(error) if error.is_absence() => {}
            Err(error) => return Err(store_failed(error)),
        }
        if let Some(dir) = path.parent() {
            file::make_dir(dir, 0o700).map_err(store_failed)?;
        }
        atomic::write(&path, &bytes, 0o600).map_err(store_failed)?;
        Ok(true)
    }

    /// The certificates, all of CAs, that lead to a root among them.
    fn checked(&self, pem: &[u8]) -> Result<Vec<X509>, TokenError> {
        let certificates = chain(pem).map_err(refused)?;
        let roots: Vec<_> = certificates
            .iter()
            .filter(|one| is_self_signed(one))
            .cloned()
            .collect();
        if roots.is_empty() {
            return Err(refused(
                "no certificate in the file is a self-signed root; put the whole chain into it",
            ));
        }
        for one in &certificates {
            let name = || shown(one.subject_name());
            if !is_ca(one).map_err(refused)? {
                return Err(refused(format!(
                    "{} is no CA that may sign certificates",
                    name()
                )));
            }
            let refusal = self.leads_to(one, &certificates, roots.clone())?;
            if let Some(reason) = refusal {
                return Err(refused(format!("{}: {reason}", name())));
            }
        }
        Ok(certificates)
    }

    /// All certificates that are trusted as roots.
    ///
    /// # Errors
    /// The directory of CAs cannot be read. A file that cannot is listed, so that it can be removed.
    pub fn list(&self) -> Result<Vec<CaCertificate>, TokenError> {
        let mut all = Vec::new();
        let mut add = |id: &str, kind: Kind, path: PathBuf| {
            let read = read_roots(&path).and_then(|found| {
                let described = found.iter().map(|one| described(id, kind, one));
                described.collect::<Result<Vec<_>, _>>().map_err(refused)
            });
            match read {
                Ok(found) => all.extend(found),
                Err(error) => all.push(CaCertificate {
                    id: id.to_owned(),
                    kind: kind.into(),
                    subject: error.to_string(),
                    ..Default::default()
                }),
            }
        };
        add(VENDOR, Kind::Vendor, self.dir.join(ROOT));
        for path in entries(&self.dir.join(MORE_ROOTS))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            add(&name, Kind::Registered, path.clone());
        }
        add(LOCAL, Kind::Local, self.dir.join(LOCAL_ROOT));
        Ok(all)
    }

    /// Trusts a CA no longer.
    ///
    /// # Errors
    /// `NoSuchCa`, also for the root that came with the device.
    pub fn remove(&self, id: &str) -> Result<(), TokenError> {
        let path = match id {
            VENDOR => return Err(refused("the root that came with the device stays")),
            LOCAL => self.dir.join(LOCAL_ROOT),
            id => {
                let registered = entries(&self.dir.join(MORE_ROOTS))?;
                let named = registered
                    .into_iter()
                    .find(|path| path.file_name().is_some_and(|name| name == id));
                named.ok_or_else(|| no_such(id))?
            }
        };
        if fs::symlink_metadata(&path).is_err() {
            return Err(no_such(id));
        }
        atomic::remove(&path).map_err(store_failed)?;
        path.parent()
            .map_or(Ok(()), atomic::sync_dir)
            .map_err(store_failed)
    }
}

/// A hostile or overlong id is cut down to what an error message can carry.
fn no_such(id: &str) -> TokenError {
    TokenError::NoSuchCa(id.escape_debug().take(64).collect())
}

fn is_self_signed(certificate: &X509) -> bool {
    certificate
        .public_key()
        .and_then(|key| certificate.verify(&key))
        .unwrap_or(false)
}

/// What is stored: the certificates and nothing around them, lines ended by LF.
fn canonical(certificates: &[X509]) -> Result<Vec<u8>, ErrorStack> {
    let all: Result<Vec<_>, _> = certificates.iter().map(|one| one.to_pem()).collect();
    Ok(all?.concat())
}

fn described(id: &str, kind: Kind, one: &X509) -> Result<CaCertificate, ErrorStack> {
    Ok(CaCertificate {
        id: id.to_owned(),
        kind: kind.into(),
        subject: shown(one.subject_name()),
        not_after: one.not_after().to_string(),
        fingerprint: hex::encode(one.digest(MessageDigest::sha256())?),
    })
}

fn shown(name: &X509NameRef) -> String {
    let parts = name.entries().map(|entry| {
        let key = entry.object().nid().short_name().unwrap_or("?");
        format!("{key}={}", entry.data().to_string().unwrap_or_default())
    });
    parts.collect::<Vec<_>>().join(", ")
}
