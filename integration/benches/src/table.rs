//! The report as people read it.

use std::time::Duration;

use crate::{install, ours::Report, runtime::Times};

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}

/// Prints the report.
pub fn print(report: &Report) {
    println!("medians; the ratio is ours to the runtime's, below 1 is faster\n");
    println!("{:<28}{:>12}{:>20}{:>20}", "", "ours", "crun", "runc");
    let rows = |times: &Times| [times.start, times.exec, times.stop];
    let names = ["start until running", "run true", "stop until gone"];
    for (row, name) in names.into_iter().enumerate() {
        let ours = rows(&report.ours)[row];
        print!("{name:<28}{:>12}", milliseconds(ours));
        for (_, times) in &report.others {
            let theirs = rows(times)[row];
            let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
            print!("{:>20}", format!("{} ({ratio:.2})", milliseconds(theirs)));
        }
        println!();
    }
    let more = [
        ("PIN derivation", milliseconds(report.pin)),
        (
            "list, 4 containers",
            format!("{} us", report.list.as_micros()),
        ),
        (
            "daemon idle, RSS",
            format!("{:.1} MiB", report.idle_kib as f64 / 1024.0),
        ),
        (
            "more per running container",
            format!("{} KiB", report.per_container_kib),
        ),
        ("200 containers, one by one", milliseconds(report.crowd)),
    ];
    println!();
    for (name, value) in more {
        println!("{name:<28}{value:>12}");
    }
    println!(
        "\nstart and run are whole processes, client included; the runtimes start from an unpacked\n\
         directory, ours from a verified image that a sibling container uses already. stop is the\n\
         client and the polite end of the guest; for the runtimes it is `delete --force`."
    );
}

/// Prints what an installation took and cost.
pub fn print_install(report: &install::Report) {
    println!("\n1 GiB installed from a server on loopback that hangs up at 40 % and 80 %\n");
    println!(
        "{:<28}{:>12}",
        "push until completed",
        milliseconds(report.install)
    );
    for (name, time) in report.programs {
        let ratio = time.as_secs_f64() / report.install.as_secs_f64();
        let shown = format!(
            "{} (our throughput is {ratio:.2} of it)",
            milliseconds(time)
        );
        println!("{name:<28}{shown:>12}");
    }
    println!(
        "\n{:<28}{:>12}{:>12}{:>8}",
        "other commands, medians", "alone", "meanwhile", "ratio"
    );
    for (name, alone, meanwhile) in &report.others {
        let ratio = meanwhile.as_secs_f64() / alone.as_secs_f64();
        let us = |time: &std::time::Duration| format!("{} us", time.as_micros());
        println!(
            "{name:<28}{:>12}{:>12}{ratio:>8.2}",
            us(alone),
            us(meanwhile)
        );
    }
}
