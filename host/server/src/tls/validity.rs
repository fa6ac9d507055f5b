//! The validity of an X.509 certificate (RFC 5280, 4.1.2.5), read from its DER.
//!
//! The reader only walks over the fields before the validity. rustls checks whether the rest is a certificate.

use lifeboat_api::clock::{Timestamp, Utc};
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;

/// The time before its expiry from which a server warns of a certificate.
pub const CERTIFICATE_WARNING: Duration = Duration::from_secs(30 * 24 * 60 * 60);

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The period in which a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first second of the period.
    pub not_before: Timestamp,
    /// The last second of the period.
    pub not_after: Timestamp,
}

impl Validity {
    /// Returns the validity of a certificate, or `None` if `der` is not a certificate.
    #[must_use]
    pub fn of(der: &[u8]) -> Option<Self> {
        let certificate = Der(der).field(SEQUENCE)?;
        let mut body = Der(certificate).field_of(SEQUENCE)?;
        body.skip_if(VERSION);
        // The serial number, the algorithm of the signature, and the issuer.
        for _ in 0..3 {
            body.next()?;
        }
        let mut validity = body.field_of(SEQUENCE)?;
        Some(Self { not_before: time(validity.next()?)?, not_after: time(validity.next()?)? })
    }

    /// Returns the period in which all certificates of a chain are valid. None if no certificate of it tells.
    #[must_use]
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let validities: Vec<Self> = chain.iter().filter_map(|certificate| Self::of(certificate)).collect();
        Some(Self {
            not_before: validities.iter().map(|validity| validity.not_before).max()?,
            not_after: validities.iter().map(|validity| validity.not_after).min()?,
        })
    }

    /// Checks that a client would accept the certificate at `now`.
    ///
    /// # Errors
    /// A sentence with the time and the remedy, if the certificate is not valid.
    pub fn check(&self, now: Timestamp) -> Result<(), String> {
        let (not_before, not_after, shown) = (Utc(self.not_before), Utc(self.not_after), Utc(now));
        if now < self.not_before {
            return Err(format!(
                "it is valid from {not_before:.0} on, and it is {shown:.0} now; set the clock, or use a certificate \
                 that is valid now"
            ));
        }
        if now > self.not_after {
            return Err(format!("it expired at {not_after:.0}, and it is {shown:.0} now; renew it"));
        }
        Ok(())
    }

    /// Returns a warning if the certificate expires within [`CERTIFICATE_WARNING`].
    #[must_use]
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        if self.check(now).is_err() || now.plus(CERTIFICATE_WARNING) <= self.not_after {
            return None;
        }
        let days = (self.not_after.0 - now.0) / (24 * 60 * 60 * 1_000_000_000);
        let left = match days {
            0 => "in less than a day".into(),
            1 => "in 1 day".into(),
            days => format!("in {days} days"),
        };
        Some(format!("expires {left}, at {:.0}; renew it and restart the server", Utc(self.not_after)))
    }
}

/// A sequence of DER fields.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// Returns the tag and the content of the next field.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], rest) = self.0.split_first_chunk()?;
        let (length, rest) = match usize::from(length) {
            short @ 0..=0x7f => (short, rest),
            // A longer length is stored in its own bytes. A file of some kilobytes needs no more than four.
            long @ 0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(long - 0x80)?;
                (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    fn field(mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }

    /// Returns the fields inside the next field.
    fn field_of(&mut self, wanted: u8) -> Option<Self> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| Self(content))
    }

    fn skip_if(&mut self, wanted: u8) {
        let mut after = *self;
        if after.next().is_some_and(|(tag, _)| tag == wanted) {
            *self = after;
        }
    }
}

/// Parses `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`. A time before 1970 becomes 1970, and a time after the last
/// representable one becomes the last.
fn time((tag, text): (u8, &[u8])) -> Option<Timestamp> {
    let digits = text.strip_suffix(b"Z")?;
    let year_digits = match tag {
        UTC_TIME => 2,
        GENERALIZED_TIME => 4,
        _ => return None,
    };
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |digits: &[u8]| digits.iter().fold(0_i64, |number, digit| number * 10 + i64::from(digit - b'0'));
    let (year, rest) = digits.split_at(year_digits);
    let year = match (tag, number(year)) {
        (UTC_TIME, year @ 0..50) => 2_000 + year,
        (UTC_TIME, year) => 1_900 + year,
        (_, year) => year,
    };
    let mut parts = rest.chunks(2).map(number);
    let [month, day, hour, minute, second] = std::array::from_fn(|_| parts.next().unwrap_or_default());
    Timestamp::of_utc([year, month, day, hour, minute, second])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_rustls::rustls::pki_types::pem::PemObject;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn of_tests() -> Vec<u8> {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/tls/server.pem");
        CertificateDer::from_pem_file(file).expect("a certificate").to_vec()
    }

    #[test]
    fn the_validity_of_a_certificate_is_read() {
        let Validity { not_before, not_after } = Validity::of(&of_tests()).expect("a certificate");
        assert_eq!(format!("{:.0}", Utc(not_before)), "2026-11-22T19:25:26Z");
        assert_eq!(format!("{:.0}", Utc(not_after)), "2126-10-29T19:25:26Z");
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (tag, text, expected) in [
            (UTC_TIME, "700101000000Z", Some("1970-01-01T00:00:00Z")),
            (UTC_TIME, "491231235959Z", Some("2049-12-31T23:59:59Z")),
            (UTC_TIME, "500101000000Z", Some("1970-01-01T00:00:00Z")),
            (GENERALIZED_TIME, "20000229120000Z", Some("2000-02-29T12:00:00Z")),
            (GENERALIZED_TIME, "21000301000000Z", Some("2100-03-01T00:00:00Z")),
            (GENERALIZED_TIME, "99991231235959Z", Some("2554-07-21T23:34:33Z")),
            (UTC_TIME, "701301000000Z", None),
            (UTC_TIME, "7001010000Z", None),
            (UTC_TIME, "700101000000+0100", None),
            (GENERALIZED_TIME, "2000022912000xZ", None),
            (0x05, "700101000000Z", None),
        ] {
            let found = time((tag, text.as_bytes())).map(|time| format!("{:.0}", Utc(time)));
            assert_eq!(found.as_deref(), expected, "{text}");
        }
    }

    const START: Timestamp = Timestamp(1_700_000_000_000_000_000);

    fn ninety_days() -> Validity {
        Validity { not_before: START, not_after: START.plus(90 * DAY) }
    }

    #[test]
    fn a_certificate_is_refused_outside_of_its_validity() {
        let validity = ninety_days();
        let end = validity.not_after;
        for time in [START, START.plus(60 * DAY), end] {
            assert_eq!(validity.check(time), Ok(()));
        }
        assert!(
            validity.check(Timestamp(START.0 - 1)).is_err_and(|reason| reason.starts_with("it is valid from 2023-11"))
        );
        assert!(validity.check(Timestamp(end.0 + 1)).is_err_and(|reason| reason.contains("expired at 2024-02-12")));
    }

    #[test]
    fn a_certificate_near_its_end_is_warned_of() {
        let validity = ninety_days();
        let end = validity.not_after;
        for (time, warning) in [
            (START, None),
            (START.plus(60 * DAY), None),
            (START.plus(60 * DAY + Duration::from_nanos(1)), Some("expires in 29 days, at 2024-02-12T22:13:20Z")),
            (START.plus(88 * DAY), Some("expires in 2 days")),
            (START.plus(89 * DAY), Some("expires in 1 day,")),
            (end, Some("expires in less than a day")),
            (Timestamp(end.0 + 1), None),
        ] {
            let found = validity.warning(time);
            assert!(
                found.as_deref().zip(warning).is_some_and(|(found, warning)| found.starts_with(warning))
                    || found.is_none() && warning.is_none(),
                "{found:?} {warning:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Validity::of(&bytes);
        }

        #[test]
        fn no_damage_to_a_certificate_panics(at in any::<prop::sample::Index>(), put in any::<u8>(), end in any::<prop::sample::Index>()) {
            let mut der = of_tests();
            let index = at.index(der.len());
            der[index] = put;
            let _ = Validity::of(&der);
            let _ = Validity::of(&der[..end.index(der.len())]);
        }
    }
}
