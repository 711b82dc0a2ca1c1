//! The header `traceparent` ([W3C Trace Context](https://www.w3.org/TR/trace-context/#traceparent-header)).

/// The trace and the span in a `traceparent`, if it is well-formed in version 00 or in what a later version keeps of it.
pub fn parse(value: &str) -> Option<(&str, &str)> {
    let mut fields = value.split('-');
    let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let version = version.len() == 2 && hexadecimal(version) && version != "ff";
    let ends = version && (value.get(..2) != Some("00") || fields.next().is_none());
    let valid = ends && id(trace, 32) && id(parent, 16) && flags.len() == 2 && hexadecimal(flags);
    valid.then_some((trace, parent))
}

/// All zeros stand for no identity.
fn id(field: &str, length: usize) -> bool {
    field.len() == length && hexadecimal(field) && field.bytes().any(|digit| digit != b'0')
}

fn hexadecimal(field: &str) -> bool {
    field.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const PARENT: &str = "00f067aa0ba902b7";

    #[test]
    fn only_a_well_formed_traceparent_counts() {
        assert_eq!(parse(&format!("00-{TRACE}-{PARENT}-01")), Some((TRACE, PARENT)));
        assert_eq!(parse(&format!("cc-{TRACE}-{PARENT}-01-more")), Some((TRACE, PARENT)));
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            format!("00-{TRACE}-{PARENT}"),
            format!("00-{TRACE}-{PARENT}-01-more"),
            format!("ff-{TRACE}-{PARENT}-01"),
            format!("00-{zeros}-{PARENT}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{PARENT}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{PARENT}-zz"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
