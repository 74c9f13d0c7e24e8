//! The rules of the filter, as text for nft(8). All that varies are numbers and names of our own making, so nothing that
//! anybody else has written can change their meaning (SEC-08).

use cml_sys::net::mac::Mac;

use crate::names::{FilterNames, Identity};

/// The name of core0's end of its way to the host (runtime.md 4.2).
pub const CORE0_UPLINK: &str = "cml";

/// Of what has nothing to do with us, nothing passes from one network card to another, nor between what software makes for
/// their own traffic. Hardware has no kind, and a rule about kinds does not match it. Everything else, such as the
/// bridges of other systems of containers, is none of our business.
const STRANGERS: &str = "    chain strangers {
        meta iifkind != { \"vlan\", \"bond\", \"team\", \"macvlan\", \"ipvlan\" } return
        meta oifkind != { \"vlan\", \"bond\", \"team\", \"macvlan\", \"ipvlan\" } return
        meta nfproto ipv4 drop
    }
";

/// What the rules between containers and the rest depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Routing {
    /// They are those of core0.
    pub in_core0: bool,
    /// Containers do not reach each other.
    pub isolate: bool,
    /// Without us nothing would be passed on.
    pub only_ours: bool,
}

/// The rules between containers and the rest. They speak of the group of our interfaces and never of one of them, so
/// they are set once, before the first container is connected, and stay the same until the last one is gone.
pub fn routing(identity: Identity, what: Routing) -> String {
    let (table, group) = (identity.table(), identity.group());
    let apart = match what.in_core0 {
        // The host may be reached by way of core0.
        true => format!(" iifname != \"{CORE0_UPLINK}\" oifname != \"{CORE0_UPLINK}\""),
        false => String::new(),
    };
    let isolated = match what.isolate {
        true => format!("        iifgroup {group} oifgroup {group}{apart} drop\n"),
        false => String::new(),
    };
    let (strangers, turned_away) = match what.only_ours {
        true => (
            STRANGERS,
            format!("        iifgroup != {group} oifgroup != {group} jump strangers\n"),
        ),
        false => ("", String::new()),
    };
    format!(
        "\
table inet {table} {{}}
delete table inet {table}
table inet {table} {{
    chain spoofed {{
        type filter hook prerouting priority raw; policy accept;
        iifgroup != {group} return
        ip saddr 0.0.0.0 return
        ip6 saddr {{ ::, fe80::/10 }} return
        fib saddr . iif oif missing drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifgroup {group} icmpv6 type {{ nd-router-advert, nd-redirect }} drop
        iifgroup {group} icmp type redirect drop
    }}
{strangers}    chain forward {{
        type filter hook forward priority filter; policy accept;
{isolated}{turned_away}        oifgroup != {group} accept
        iifgroup {group} accept
        ct state {{ established, related }} accept
        ct status dnat accept
        drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        iifgroup {group} oifgroup != {group} masquerade
    }}
}}
"
    )
}

/// Removes the rules between containers and the rest, if there are any.
pub fn no_routing(identity: Identity) -> String {
    let table = identity.table();
    format!("table inet {table} {{}}\ndelete table inet {table}\n")
}

/// The rules of all filtered interfaces: only these addresses are heard. The host itself takes no part in what
/// passes over the bridges.
pub fn bridging(identity: Identity, filters: &[(FilterNames, Vec<Mac>)]) -> String {
    let table = identity.table();
    let fresh = format!("table bridge {table} {{}}\ndelete table bridge {table}\n");
    if filters.is_empty() {
        return fresh;
    }
    let aside = |direction: char| -> String {
        let rules = filters.iter().map(|(names, _)| {
            let FilterNames { index, port, .. } = names;
            format!(
                "        {direction}if {index} drop\n        {direction}ifname \"{port}\" drop\n"
            )
        });
        rules.collect()
    };
    let chains = [
        chain("forward", &filters.iter().map(heard).collect::<String>()),
        chain("input", &aside('i')),
        chain("output", &aside('o')),
    ];
    format!("{fresh}table bridge {table} {{\n{}}}\n", chains.concat())
}

fn chain(hook: &str, rules: &str) -> String {
    let head = format!("type filter hook {hook} priority filter; policy accept;");
    format!("    chain {hook} {{\n        {head}\n{rules}    }}\n")
}

/// Who is heard on the way to a container: nobody, if every entry of its filter was a mistake.
fn heard((names, macs): &(FilterNames, Vec<Mac>)) -> String {
    let port = &names.port;
    let macs: Vec<_> = macs.iter().map(ToString::to_string).collect();
    let known = match macs.is_empty() {
        true => String::new(),
        false => format!(
            "        oifname \"{port}\" ether saddr {{ {} }} accept\n",
            macs.join(", ")
        ),
    };
    format!("{known}        oifname \"{port}\" drop\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use cml_sys::net::{namespace::Namespace, nft};

    use super::*;
    use crate::names::filter_names;

    const IDENTITY: Identity = Identity {
        range: [0; 5],
        mark: [0x3f, 0x2a, 0x11],
    };

    #[test]
    fn the_rules_are_these_and_nft_takes_them_twice() {
        let here = Namespace::create().unwrap();
        let filters = [
            (
                filter_names(5),
                vec![Mac([2, 0, 0, 0, 0, 1]), Mac([2, 0, 0, 0, 0, 2])],
            ),
            (filter_names(6), Vec::new()),
        ];
        let all = [
            routing(
                IDENTITY,
                Routing {
                    in_core0: false,
                    isolate: false,
                    only_ours: true,
                },
            ),
            routing(
                IDENTITY,
                Routing {
                    in_core0: true,
                    isolate: true,
                    only_ours: false,
                },
            ),
            bridging(IDENTITY, &filters),
        ];
        insta::assert_snapshot!("rules", all.join("\n"));
        for rules in all.iter().chain(&all) {
            nft::apply(&here, rules).unwrap();
        }
        for none in [no_routing(IDENTITY), bridging(IDENTITY, &[])] {
            nft::apply(&here, &none).unwrap();
            nft::apply(&here, &none).unwrap();
        }
    }
}
