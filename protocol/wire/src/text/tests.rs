#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;
use crate::proto::*;

mod strict;

#[test]
fn the_recorded_status_reply_has_this_text() {
    // wire-samples.md
    let reply = DaemonToController {
        code: daemon_to_controller::Code::ContainerStatus as i32,
        container_status: vec![ContainerStatus {
            uuid: "b51f6038-aa7e-4cc7-b93a-fe187ef218f1".into(),
            name: "minicontainer".into(),
            r#type: ContainerType::Container as i32,
            state: ContainerState::Stopped as i32,
            uptime: 0,
            created: 1_795_480_601,
            guestos: "minios".into(),
            trust_level: ContainerTrust::Signed as i32,
            cryptfs_mode: CryptfsMode::IntegrityEncrypt as i32,
            audio: None,
            last_end: None,
            damage: None,
        }],
        ..Default::default()
    };
    assert_eq!(
        print(&reply),
        "code: CONTAINER_STATUS\ncontainer_status {\n  uuid: \"b51f6038-aa7e-4cc7-b93a-fe187ef218f1\"\n  name: \"minicontainer\"\n  type: CONTAINER\n  state: STOPPED\n  uptime: 0\n  created: 1795480601\n  guestos: \"minios\"\n  trust_level: SIGNED\n  cryptfs_mode: INTEGRITY_ENCRYPT\n}\n"
    );
}

#[test]
fn the_recorded_config_is_read_and_written_alike() {
    // wire-samples.md: the configuration inside the reply to `config`.
    let text = "name: \"softcontainer\"\nguest_os: \"minios\"\nguestos_version: 1\ncolor: 0\ntype: CONTAINER\nvnet_configs {\n  if_name: \"host0\"\n  configure: true\n  if_mac: \"6e:41:99:d5:5b:ee\"\n}\ntoken_type: SOFT\n";
    assert_eq!(
        print(&parse::<ContainerConfig>(text.as_bytes()).unwrap()),
        text
    );
}

#[test]
fn required_scalars_may_be_missing_and_are_written_with_their_default() {
    let config: ContainerConfig = parse(b"name: \"c\" guest_os: \"g\"").unwrap();
    assert_eq!(
        print(&config),
        "name: \"c\"\nguest_os: \"g\"\ncolor: 0\ntype: CONTAINER\ntoken_type: SOFT\n"
    );
    let os: GuestOsConfig = parse(
        b"name: \"g\" hardware: \"x\" description { en: \"\" } mounts { image_file: \"r\" mount_point: \"/\" fs_type: \"squashfs\" }",
    )
    .unwrap();
    assert_eq!(os.mounts[0].mount_type(), guest_os_mount::Type::Shared);
    assert_eq!(parse::<DeviceConfig>(b"").unwrap(), DeviceConfig::default());
    assert!(DeviceConfig::default().tpm_enabled);
}

#[test]
fn required_strings_and_messages_may_not_be_missing() {
    let error = parse::<ContainerConfig>(b"name: \"c\"\n").unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2, column 1: ContainerConfig lacks the required field `guest_os`"
    );
    let error = parse::<GuestOsConfig>(b"name: \"g\"\nhardware: \"x\"").unwrap_err();
    assert!(error.to_string().contains("`description`"), "{error}");
    let error =
        parse::<ContainerConfig>(b"name: \"c\"\nguest_os: \"g\"\nvnet_configs { configure: true }")
            .unwrap_err();
    assert_eq!((error.line, error.column), (3, 32));
}

#[test]
fn errors_name_line_and_column_and_what_to_mend() {
    for (text, line, column, says) in [
        ("name: \"c\"\nnme: \"d\"", 2, 1, "no field `nme`"),
        ("name: \"c", 1, 7, "not closed"),
        ("name: c", 1, 7, "`c` is no string"),
        ("name \"c\"", 1, 6, "expected `:`"),
        ("name: \"a\"\n  name: \"b\"", 2, 3, "given twice"),
        ("type: LXC", 1, 7, "no ContainerType"),
        ("type: 9", 1, 7, "no ContainerType"),
        ("ram_limit: 4294967296", 1, 12, "32-bit"),
        ("ram_limit: -1", 1, 12, "32-bit"),
        ("ram_limit: 0x", 1, 12, "32-bit"),
        ("userns: yes", 1, 9, "bool"),
        ("name: \"\\q\"", 1, 8, "escape"),
        ("name: \"\\400\"", 1, 8, "escape"),
        ("name: \"\u{1}\\377\"", 1, 7, "UTF-8"),
        ("vnet_configs {", 1, 15, "end of the text"),
        ("}", 1, 1, "field name"),
        ("name: \"c\" \u{7f}", 1, 11, "unexpected byte"),
    ] {
        let error = parse::<ContainerConfig>(text.as_bytes()).unwrap_err();
        assert_eq!(
            (error.line, error.column),
            (line, column),
            "{text:?}: {error}"
        );
        assert!(error.to_string().contains(says), "{text:?}: {error}");
    }
}

#[test]
fn the_reader_takes_what_people_write() {
    let liberal = b"# the guest\r\nname: 'c'; guest_os: \"g\" \"uest\",\r\ncolor: 0xff00ffff\ntype: 1\ninit_env: [\"A=1\", 'B=2']\nvnet_configs: <if_name: \"e\" configure: 1>\ntoken_type: SOFT\n";
    let config: ContainerConfig = parse(liberal).unwrap();
    assert_eq!(config.guest_os, "guest");
    assert_eq!(config.color, 0xff00_ffff);
    assert_eq!(config.init_env, ["A=1", "B=2"]);
    assert!(config.vnet_configs[0].configure);
}

#[test]
fn text_without_end_does_not_exhaust_the_stack() {
    let text = "description { en: \"x\" ".repeat(100_000);
    assert!(parse::<GuestOsConfig>(text.as_bytes()).is_err());
}

#[test]
fn the_command_line_shows_octal_and_files_keep_letters() {
    let id = DeviceId {
        uuid: "ü\u{1}".into(),
    };
    assert_eq!(print(&id), "uuid: \"\\303\\274\\001\"\n");
    assert_eq!(print_file(&id), "uuid: \"ü\\001\"\n");
}

fn text_of_any_kind() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(String::new()),
        "[ -~\n\r\t]{0,12}",
        "\\PC{0,8}",
        any::<String>()
    ]
}

prop_compose! {
    fn mount()(
        image_file in text_of_any_kind(),
        mount_point in text_of_any_kind(),
        kind in 1..=12i32,
        sizes in any::<(Option<u32>, Option<u64>)>(),
        data in prop::option::of(text_of_any_kind()),
    ) -> GuestOsMount {
        GuestOsMount {
            image_file, mount_point, mount_type: kind, def_size: sizes.0, image_size: sizes.1,
            mount_data: data, ..Default::default()
        }
    }
}

prop_compose! {
    fn guest_os()(
        name in text_of_any_kind(),
        version in any::<u64>(),
        mounts in prop::collection::vec(mount(), 0..3),
        init_param in prop::collection::vec(text_of_any_kind(), 0..3),
        en in text_of_any_kind(),
        flag in any::<Option<bool>>(),
    ) -> GuestOsConfig {
        GuestOsConfig {
            name, version, mounts, init_param, feature_install_guest: flag,
            description: I18nString { en, de: None, fr: None }, ..Default::default()
        }
    }
}

prop_compose! {
    fn container()(
        names in (text_of_any_kind(), text_of_any_kind()),
        color in any::<u32>(),
        numbers in any::<(Option<u64>, Option<u32>, Option<bool>)>(),
        init_env in prop::collection::vec(text_of_any_kind(), 0..3),
        sizes in prop::collection::vec((text_of_any_kind(), any::<u64>()), 0..3),
        token in 1..=4i32,
    ) -> ContainerConfig {
        ContainerConfig {
            name: names.0, guest_os: names.1, color, guestos_version: numbers.0, ram_limit: numbers.1,
            userns: numbers.2, init_env, token_type: token,
            image_sizes: sizes.into_iter().map(|(image_name, image_size)| ContainerImageSize {
                image_name, image_size, image_file: None,
            }).collect(),
            ..Default::default()
        }
    }
}

proptest! {
    #[test]
    fn every_container_config_file_is_read_by_the_old_grammar(config in container()) {
        let text = print_file(&config);
        prop_assert!(strict::accepts::<ContainerConfig>(text.as_bytes()), "{}", text);
        prop_assert_eq!(parse::<ContainerConfig>(text.as_bytes()).unwrap(), config.clone());
        prop_assert_eq!(parse::<ContainerConfig>(print(&config).as_bytes()).unwrap(), config);
    }

    #[test]
    fn every_guest_os_config_file_is_read_by_the_old_grammar(config in guest_os()) {
        let text = print_file(&config);
        prop_assert!(strict::accepts::<GuestOsConfig>(text.as_bytes()), "{}", text);
        prop_assert_eq!(parse::<GuestOsConfig>(text.as_bytes()).unwrap(), config);
    }

    #[test]
    fn no_text_panics_the_reader(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse::<GuestOsConfig>(&text);
    }

    #[test]
    fn broken_configs_are_refused_with_a_place_inside_them(config in container(), cut in any::<prop::sample::Index>()) {
        let mut text = print_file(&config).into_bytes();
        text.truncate(cut.index(text.len()));
        if let Err(error) = parse::<ContainerConfig>(&text) {
            prop_assert!(error.line <= 1 + text.iter().filter(|&&b| b == b'\n').count());
        }
    }
}
