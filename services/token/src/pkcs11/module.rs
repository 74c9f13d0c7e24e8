//! PKCS#11 modules: shared libraries that run in our process, each loaded and initialised once and never
//! unloaded.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
};

/// Whoever holds the lock is alone in the module. Who is logged in belongs to the whole process, not to a
/// session: while one PIN is being checked, no other may be.
pub type Module = Arc<Mutex<Pkcs11>>;

/// The module in this file.
///
/// # Errors
/// In words: the file is missing, somebody other than root could have written it, or it is no module.
pub fn load(path: &Path) -> Result<Module, String> {
    static LOADED: Mutex<BTreeMap<PathBuf, Module>> = Mutex::new(BTreeMap::new());

    // Debian's path of SoftHSM, for one, is a link; what counts is what gets loaded.
    let file = fs::canonicalize(path).map_err(|error| {
        format!("{error}; install the PKCS#11 module and put it, or a link to it, there")
    })?;
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.get(&file) {
        return Ok(module.clone());
    }
    only_root_writes(&file)?;
    let module = start(&file).map_err(|error| format!("it is no PKCS#11 module: {error}"))?;
    let module = Arc::new(Mutex::new(module));
    loaded.insert(file, module.clone());
    Ok(module)
}

fn start(file: &Path) -> Result<Pkcs11, Error> {
    let module = Pkcs11::new(file)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(module),
        Err(error) => Err(error),
    }
}

/// Who can write a module, or put another one in its place, becomes this process.
fn only_root_writes(file: &Path) -> Result<(), String> {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    for path in file.ancestors() {
        let shown = path.display();
        let found = fs::symlink_metadata(path).map_err(|error| format!("{shown}: {error}"))?;
        if path == file && !found.is_file() {
            return Err(format!("{shown} is no regular file"));
        }
        // In a sticky directory nobody replaces what root has put there.
        let kept = found.is_dir() && found.mode() & STICKY != 0;
        if found.uid() != 0 || (found.mode() & OTHERS_WRITE != 0 && !kept) {
            return Err(format!(
                "{shown} must belong to root and be writable by nobody else, as modules run in this \
                 process; see chown(1) and chmod(1)"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_somebody_else_could_have_written_is_not_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("module.so");
        fs::write(&file, "no library").unwrap();
        // A test without root's rights has nothing that root owns but the system's own files.
        if fs::metadata(&file).unwrap().uid() != 0 {
            assert!(load(&file).unwrap_err().contains("belong to root"));
            return;
        }
        chmod(&file, 0o644);
        assert!(load(&file).unwrap_err().contains("no PKCS#11 module"));
        for mode in [0o664, 0o646] {
            chmod(&file, mode);
            assert!(load(&file).unwrap_err().contains("nobody else"), "{mode:o}");
        }
        chmod(&file, 0o644);
        chmod(dir.path(), 0o777);
        assert!(load(&file).unwrap_err().contains("nobody else"));
        chmod(dir.path(), 0o1777);
        assert!(load(&file).unwrap_err().contains("no PKCS#11 module"));
        chown(&file, Some(1), None).unwrap();
        let link = dir.path().join("link.so");
        symlink(&file, &link).unwrap();
        assert!(load(&link).unwrap_err().contains("belong to root"));
    }

    #[test]
    fn what_is_missing_no_file_or_no_module_is_refused_in_words() {
        assert!(
            load(Path::new("/no/module.so"))
                .unwrap_err()
                .contains("install")
        );
        assert!(
            load(Path::new("/usr"))
                .unwrap_err()
                .contains("no regular file")
        );
        // A library, but another one: of the C library every machine has one.
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps
            .split_whitespace()
            .find(|word| word.contains("/libc.so"))
            .unwrap();
        assert!(
            load(Path::new(libc))
                .unwrap_err()
                .contains("no PKCS#11 module")
        );
    }
}
