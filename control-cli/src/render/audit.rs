//! The audit log for people.

use cml_wire::proto::{AuditEntry, AuditRecord, AuditSink, DaemonToController};

use super::{
    printable,
    table::{size, table},
};

/// The log of the device is that of `core0`.
const DEVICE: &str = "00000000-0000-0000-0000-000000000000";

/// Records, oldest first.
pub fn records(all: &[AuditEntry], width: Option<usize>) -> String {
    if all.is_empty() {
        return "no records\n".into();
    }
    let rows = all.iter().map(|entry| {
        let AuditRecord {
            timestamp,
            r#type,
            subject_id,
            meta,
        } = &entry.record;
        let facts = meta.iter().map(|meta| {
            let (key, value) = (printable(&meta.key), printable(&meta.value));
            format!("{key}={value}")
        });
        [
            utc(*timestamp),
            printable(r#type),
            subject_id.as_deref().map_or("-".into(), printable),
            facts.collect::<Vec<_>>().join(" "),
        ]
    });
    table(["TIME (UTC)", "EVENT", "SUBJECT", "FACTS"], rows, width)
}

/// What the check has found.
pub fn verdict(reply: &DaemonToController, width: Option<usize>) -> String {
    let mut out = match reply.audit_sinks.as_slice() {
        [] => "no audit log\n".to_owned(),
        all => {
            let rows = all.iter().map(sink);
            let header = [
                "LOG",
                "STATE",
                "RECORDS",
                "DROPPED",
                "SIZE",
                "FIRST (UTC)",
                "LAST (UTC)",
            ];
            table(header, rows, width)
        }
    };
    if reply.audit_enabled == Some(false) {
        out += "auditing is off; `audit_size` in device.conf switches it on\n";
    }
    out
}

fn sink(one: &AuditSink) -> [String; 7] {
    let time = |time: Option<i64>| time.map_or("-".into(), utc);
    [
        match one.sink.as_str() {
            DEVICE => "device".into(),
            container => printable(container),
        },
        match one.broken {
            Some(_) => "BROKEN".into(),
            None => "intact".into(),
        },
        one.records.to_string(),
        one.dropped.to_string(),
        size(one.bytes),
        time(one.first),
        time(one.last),
    ]
}

/// Unix seconds as a date and a time. After Howard Hinnant's `civil_from_days`: years begin in March.
pub(super) fn utc(seconds: i64) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let day = days.saturating_add(719_468);
    let (era, day) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = match month {
        0..10 => (year + era * 400, month + 3),
        _ => (year + era * 400 + 1, month - 9),
    };
    let (hours, minutes) = (rest / 3600, rest / 60 % 60);
    format!(
        "{year:04}-{month:02}-{of_month:02} {hours:02}:{minutes:02}:{:02}",
        rest % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_dates() {
        for (seconds, expected) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_399, "2000-02-28 23:59:59"),
            (951_782_400, "2000-02-29 00:00:00"),
            (1_767_225_599, "2025-12-31 23:59:59"),
            (4_107_542_400, "2100-03-01 00:00:00"),
            (-1, "1969-12-31 23:59:59"),
        ] {
            assert_eq!(utc(seconds), expected);
        }
        // Whatever a damaged log says.
        let _ = (utc(i64::MIN), utc(i64::MAX));
    }
}
