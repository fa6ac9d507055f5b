use super::*;

fn split(url: &str) -> (Scheme, &str, Cow<'_, str>) {
    let Url { scheme, authority, path_with_query } = Url::split(url).unwrap_or_else(|error| panic!("{url}: {error}"));
    (scheme, authority, path_with_query)
}

#[test]
fn urls_are_split_and_only_an_empty_path_is_changed() {
    for (url, parts) in [
        ("http://a", (Scheme::Http, "a", "/")),
        ("https://a/", (Scheme::Https, "a", "/")),
        ("https://api.example.org/v1/x?y=z", (Scheme::Https, "api.example.org", "/v1/x?y=z")),
        ("http://127.0.0.1:8080?q", (Scheme::Http, "127.0.0.1:8080", "/?q")),
        ("http://localhost:1/a//b/../c", (Scheme::Http, "localhost:1", "/a//b/../c")),
        ("http://[::1]", (Scheme::Http, "[::1]", "/")),
        ("http://[2001:db8::1]:65535/p", (Scheme::Http, "[2001:db8::1]:65535", "/p")),
        ("http://A.Example./%7E?a=%2f&b=?/:@", (Scheme::Http, "A.Example.", "/%7E?a=%2f&b=?/:@")),
        ("http://xn--bcher-kva.example/", (Scheme::Http, "xn--bcher-kva.example", "/")),
        ("http://a_b-c/-._~!$&'()*+,;=", (Scheme::Http, "a_b-c", "/-._~!$&'()*+,;=")),
        // A URL inside of a URL.
        ("http://a/?to=http://b/", (Scheme::Http, "a", "/?to=http://b/")),
    ] {
        let (scheme, authority, path) = split(url);
        assert_eq!((scheme, authority, &*path), parts, "{url}");
    }
}

#[test]
fn other_urls_are_refused_with_the_reason() {
    const SCHEME: &str = "it does not begin with `http://` or `https://`";
    const USER: &str = "user and password are not allowed: send them in a header";
    const FRAGMENT: &str = "a fragment is never sent: remove `#` and what follows it, or write `#` as %23";
    const HOST: &str = "it has no host";
    const PORT: &str = "the port is not a number from 1 to 65535";
    const PERCENT: &str = "two hexadecimal digits do not follow a `%`: write `%` itself as %25";
    const ASCII: &str = "a character is not ASCII: write each of its bytes in UTF-8 as %XX";
    for (url, reason) in [
        ("", SCHEME),
        ("example.org/a", SCHEME),
        ("//example.org/a", SCHEME),
        ("http:/example.org", SCHEME),
        ("HTTP://example.org", SCHEME),
        (" http://example.org", SCHEME),
        ("ftp://example.org", SCHEME),
        ("http://ada:secret@example.org/", USER),
        ("http://ada@example.org", USER),
        ("http://@example.org", USER),
        ("http://example.org@evil.example:80/", USER),
        ("http://a/b#c", FRAGMENT),
        ("http://a#", FRAGMENT),
        ("http://a?b#c@d", FRAGMENT),
        ("http://", HOST),
        ("http:///a", HOST),
        ("http://?a", HOST),
        ("http://:80/", HOST),
        ("http://a:/", PORT),
        ("http://a:0/", PORT),
        ("http://a:+1/", PORT),
        ("http://a:65536/", PORT),
        ("http://a:8o/", PORT),
        ("http://a:1:2/", PORT),
        ("http://::1/", HOST),
        ("http://[::1]:/", PORT),
        ("http://[::1/", "the `]` of an IPv6 address is missing"),
        ("http://[]/", "between `[` and `]` is no IPv6 address"),
        ("http://[127.0.0.1]/", "between `[` and `]` is no IPv6 address"),
        ("http://[fe80::1%25eth0]/", "between `[` and `]` is no IPv6 address"),
        ("http://[::1]80/", "after `]` only a port may follow"),
        ("http://a b/", "the host has the character ' '"),
        ("http://a%2e/", "the host has the character '%'"),
        ("http://a\\b/", "the host has the character '\\\\'"),
        ("http://a\r\nhost: b/", "the host has the character '\\r'"),
        ("http://bücher.example/", "the host has the character 'ü': write the name in its ASCII form, `xn--...`"),
        ("http://a/b c", "the path or query has ' ': write it as %20"),
        ("http://a/b\r\nx: y", "the path or query has '\\r': write it as %0D"),
        ("http://a/?b[]=c", "the path or query has '[': write it as %5B"),
        ("http://a/\"", "the path or query has '\"': write it as %22"),
        ("http://a/\\", "the path or query has '\\\\': write it as %5C"),
        ("http://a/\u{7f}", "the path or query has '\\u{7f}': write it as %7F"),
        ("http://a/é", ASCII),
        ("http://a/%", PERCENT),
        ("http://a/%4", PERCENT),
        ("http://a/%g0", PERCENT),
        ("http://a/%é", PERCENT),
    ] {
        assert_eq!(Url::split(url), Err(Error::InvalidUrl(reason.to_owned())), "{url:?}");
    }
}

proptest::proptest! {
    #[test]
    fn a_url_is_its_parts(url in "https?://[a-z:@.\\[\\]]{0,8}[/?]?\\PC{0,8}") {
        if let Ok(Url { scheme, authority, path_with_query }) = Url::split(&url) {
            let scheme = if scheme == Scheme::Http { "http" } else { "https" };
            let whole = format!("{scheme}://{authority}{path_with_query}");
            let without_slash = format!("{scheme}://{authority}{}", &path_with_query[1..]);
            proptest::prop_assert!(whole == url || without_slash == url, "{}", whole);
        }
    }
}
