#![allow(clippy::unwrap_used)]
use std::os::unix::fs::MetadataExt;

use super::*;

fn wish() -> Identify {
    Identify {
        common_name: "generic 0000".into(),
        key: DeviceKey::P256,
    }
}

fn device() -> (tempfile::TempDir, DeviceFiles) {
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    fs::create_dir(&tokens).unwrap();
    let device = DeviceFiles::new(&tokens);
    (dir, device)
}

fn roots(device: &DeviceFiles, enforce_validity: bool) -> Roots {
    Roots {
        dir: device.dir.clone(),
        enforce_validity,
    }
}

/// A certificate for this key, of a CA with this key.
fn signed(key: &PKeyRef<Private>, ca: &PKeyRef<Private>, from: i64, to: i64, uri: &str) -> Vec<u8> {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
    let day = |days: i64| Asn1Time::from_unix(now + days * 86_400).unwrap();
    let mut name = X509Name::builder().unwrap();
    name.append_entry_by_nid(Nid::COMMONNAME, "x").unwrap();
    let name = name.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(key).unwrap();
    certificate.set_not_before(&day(from)).unwrap();
    certificate.set_not_after(&day(to)).unwrap();
    let uri = SubjectAlternativeName::new()
        .uri(uri)
        .build(&certificate.x509v3_context(None, None))
        .unwrap();
    certificate.append_extension(uri).unwrap();
    certificate.sign(ca, MessageDigest::sha256()).unwrap();
    certificate.build().to_pem().unwrap()
}

#[test]
fn an_identity_is_made_once_and_its_parts_belong_together() {
    let (_dir, device) = device();
    let first = device.identify(&wish()).unwrap();
    let files = || [KEY, CSR, CERTIFICATE, ID].map(|name| fs::read(device.at(name)).unwrap());
    let before = files();
    assert_eq!(device.identify(&wish()).unwrap(), first);
    assert_eq!(files(), before);
    assert_eq!(fs::metadata(device.at(KEY)).unwrap().mode() & 0o777, 0o600);
    let certificate = X509::from_pem(&before[2]).unwrap();
    assert_eq!(certificate.version(), 2);
    assert_eq!(uuid_of(&certificate), Some(first.uuid.clone()));
    assert_eq!(
        String::from_utf8(before[3].clone()).unwrap(),
        format!("uuid: \"{}\"\n", first.uuid)
    );
    assert!(before[0].starts_with(b"-----BEGIN PRIVATE KEY-----"));
}

#[test]
fn what_a_power_cut_left_out_is_made_later_with_the_same_identity() {
    for missing in [CSR, CERTIFICATE, ID] {
        let (_dir, device) = device();
        let first = device.identify(&wish()).unwrap();
        fs::remove_file(device.at(missing)).unwrap();
        let again = device.identify(&wish()).unwrap();
        assert_eq!(again.uuid, first.uuid, "{missing}");
        assert!(device.at(missing).exists());
    }
}

#[test]
fn a_lost_or_damaged_key_is_never_replaced() {
    let (_dir, device) = device();
    device.identify(&wish()).unwrap();
    fs::write(device.at(KEY), "garbage").unwrap();
    let error = device.identify(&wish()).unwrap_err().to_string();
    assert!(error.contains("device.key"), "{error}");
    fs::remove_file(device.at(KEY)).unwrap();
    let error = device.identify(&wish()).unwrap_err().to_string();
    assert!(error.contains("it is missing"), "{error}");
    assert!(!device.at(KEY).exists());
}

#[test]
fn the_identity_of_the_existing_system_is_taken_over() {
    let (dir, device) = device();
    let uuid = "b51f6038-aa7e-4cc7-b93a-fe187ef218f1";
    fs::write(dir.path().join(ID), format!("uuid: \"{uuid}\"\n")).unwrap();
    assert_eq!(device.identify(&wish()).unwrap().uuid, uuid);
    fs::write(device.at(ID), "uuid: \"../x\"\n").unwrap();
    let error = device.identify(&wish()).unwrap_err().to_string();
    assert!(error.contains("device_id.conf"), "{error}");
}

#[test]
fn only_a_valid_certificate_for_this_key_and_device_is_taken() {
    let (_dir, device) = device();
    let uuid = device.identify(&wish()).unwrap().uuid;
    let (key, ca) = (device.key().unwrap().unwrap(), p256().unwrap());
    let uri = format!("UUID:{uuid}");
    let before = fs::read(device.at(CERTIFICATE)).unwrap();
    let refused = |pem: &[u8], enforce: bool, word: &str| {
        let error = device.install(pem, &roots(&device, enforce)).unwrap_err();
        assert!(
            matches!(&error, TokenError::BadDeviceCert(reason) if reason.contains(word)),
            "{error}"
        );
        assert_eq!(fs::read(device.at(CERTIFICATE)).unwrap(), before);
    };
    refused(b"garbage", true, "PEM");
    refused(b"", true, "PEM");
    refused(
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        true,
        "PEM",
    );
    refused(&signed(&ca, &ca, -1, 1, &uri), true, "another key");
    refused(&signed(&key, &ca, -2, -1, &uri), false, "expired");
    refused(&signed(&key, &ca, 1, 2, &uri), true, "not valid yet");
    let other = format!("UUID:{}", Uuid::nil());
    refused(&signed(&key, &ca, -1, 1, &other), true, "another device");
    // A clock that is behind must not keep a device from its certificate.
    let good = signed(&key, &ca, 1, 2, &uri);
    device.install(&good, &roots(&device, false)).unwrap();
    assert_eq!(fs::read(device.at(CERTIFICATE)).unwrap(), good);
}
