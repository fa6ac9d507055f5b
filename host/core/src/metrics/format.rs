//! The two text formats, and the choice between them for a client.

use std::fmt::Write as _;

/// A text format that Prometheus reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, 0.0.4.
    Prometheus,
}

impl Format {
    /// Returns the format that the `Accept` header of a request prefers. The default is OpenMetrics.
    #[must_use]
    pub fn of_accept(accept: &str) -> Self {
        let (mut open_metrics, mut prometheus, mut any) = (None::<f64>, None::<f64>, None::<f64>);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let (mut quality, mut version) = (1.0, None);
            for parameter in parts {
                match parameter.split_once('=').map(|(name, value)| (name.trim(), value.trim())) {
                    Some(("q" | "Q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.trim_matches('"').to_owned()),
                    _ => {}
                }
            }
            let is_of = |ours: &str| version.as_ref().is_none_or(|version| version == ours);
            let best = match &*media_type {
                "application/openmetrics-text" if is_of("1.0.0") => &mut open_metrics,
                "text/plain" | "text/*" if is_of("0.0.4") => &mut prometheus,
                "*/*" => &mut any,
                _ => continue,
            };
            *best = Some(best.unwrap_or(0.0).max(quality));
        }
        let open_metrics = open_metrics.or(any).unwrap_or(0.0);
        if prometheus.unwrap_or(0.0) > open_metrics { Self::Prometheus } else { Self::OpenMetrics }
    }

    /// Returns the media type of the format.
    #[must_use]
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => super::CONTENT_TYPE,
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Converts OpenMetrics text to the format 0.0.4: a family has the name of its series, and there are no unit lines and
/// no end marker.
pub(super) fn to_prometheus(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(of) = line.strip_prefix("# HELP ") {
            // Its type, on the next line, decides the name.
            help = of.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|of| of.split_once(' ')) {
            let (suffix, kind) = match kind {
                "counter" => ("_total", "counter"),
                "info" => ("_info", "gauge"),
                "unknown" => ("", "untyped"),
                kind => ("", kind),
            };
            // Writing to a string cannot fail.
            let _ = writeln!(text, "# HELP {name}{suffix} {}", help.take().unwrap_or_default());
            let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_selects_the_format() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;\
                          q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in
            ["", "*/*", "application/json", prometheus, "text/plain;q=0", "text/plain;version=1.0.0", "junk;;q"]
        {
            assert_eq!(Format::of_accept(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "text/plain",
            "text/plain; version=0.0.4",
            "text/plain;version=0.0.4;q=0.9, */*;q=0.1",
            "application/openmetrics-text;version=1.0.0;q=0.1, text/plain;q=0.2",
            "application/openmetrics-text;version=2.0.0,text/plain;version=\"0.0.4\";q=0.1",
        ] {
            assert_eq!(Format::of_accept(accept), Format::Prometheus, "{accept}");
        }
    }

    #[test]
    fn families_are_named_as_their_series_are() {
        let open_metrics = "# HELP a_build The version.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
                            # HELP a_sent_bytes Sent.\n# TYPE a_sent_bytes counter\n# UNIT a_sent_bytes bytes\n\
                            a_sent_bytes_total 7\n# HELP a_wait_seconds Wait.\n# TYPE a_wait_seconds histogram\n\
                            # UNIT a_wait_seconds seconds\na_wait_seconds_bucket{le=\"+Inf\"} 1\n# EOF\n";
        let expected = "# HELP a_build_info The version.\n# TYPE a_build_info gauge\na_build_info{version=\"1\"} 1\n\
                        # HELP a_sent_bytes_total Sent.\n# TYPE a_sent_bytes_total counter\na_sent_bytes_total 7\n\
                        # HELP a_wait_seconds Wait.\n# TYPE a_wait_seconds histogram\n\
                        a_wait_seconds_bucket{le=\"+Inf\"} 1\n";
        assert_eq!(to_prometheus(open_metrics), expected);
    }
}
