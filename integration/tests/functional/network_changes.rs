//! What happens to the host's network while containers run: network cards come and go, and others set rules.

use cml_integration::{Daemon, eventually};

use crate::network::{address, home, inside, pings, plug, stop, two_isolated};

#[test]
fn a_card_that_is_plugged_in_later_is_taken_then() {
    let daemon = Daemon::default();
    daemon.running_with("a", "busybox", "net_ifaces { netif: \"nic0\" }\n");
    let world = plug(&daemon);
    eventually("the card in the container", || {
        inside(&daemon, "a").then_some(())
    });
    // Pulled out, and plugged in again.
    world.run("ip link del nic0");
    let _world = plug(&daemon);
    eventually("the card again", || inside(&daemon, "a").then_some(()));
    stop(&daemon, "a");
    assert!(home(&daemon));
}

#[test]
fn a_card_that_is_plugged_in_while_no_daemon_runs_is_taken_by_the_next_one() {
    let mut daemon = Daemon::default();
    daemon.running_with("a", "busybox", "net_ifaces { netif: \"nic0\" }\n");
    daemon.crash();
    let _world = plug(&daemon);
    daemon.start();
    eventually("the card in the container", || {
        inside(&daemon, "a").then_some(())
    });
    stop(&daemon, "a");
    assert!(home(&daemon));
}

#[test]
fn containers_stay_isolated_when_the_rules_of_the_host_are_loaded_again() {
    let daemon = two_isolated();
    let other = address(&daemon, "b");
    let rules = || daemon.host().run("nft list ruleset");
    let before = rules();
    assert!(before.contains("table inet cml_"), "{before}");
    daemon
        .host()
        .run("nft -f - <<E\nflush ruleset\ntable inet firewall {}\nE\n");
    eventually("our rules", || {
        rules().contains(before.trim()).then_some(())
    });
    assert!(rules().contains("table inet firewall"));
    assert!(!pings(&daemon, "a", &other));
    for name in ["a", "b"] {
        stop(&daemon, name);
    }
    assert!(!rules().contains("cml_"));
}
