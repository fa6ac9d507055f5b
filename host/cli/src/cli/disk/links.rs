//! Where the symbolic links of a directory lead.

use lifeboat_disk::LINKS_PER_PATH_MAX;
use std::collections::BTreeMap;

/// Returns whether a link, and those on its way, lead out of the directory below which all of them are, or in a
/// circle. A target that is missing leads to where it would be. `links` has the targets by their paths below that
/// directory.
pub(crate) fn leads_out(links: &BTreeMap<String, String>, link: &str) -> bool {
    let mut at: Vec<&str> = Vec::new();
    let mut left: Vec<&str> = link.rsplit('/').collect();
    let mut followed = 0;
    while let Some(name) = left.pop() {
        match name {
            "" | "." => {}
            ".." => {
                if at.pop().is_none() {
                    return true;
                }
            }
            name => {
                at.push(name);
                let Some(target) = links.get(&at.join("/")) else { continue };
                followed += 1;
                if target.starts_with('/') || followed > LINKS_PER_PATH_MAX {
                    return true;
                }
                at.pop();
                left.extend(target.rsplit('/'));
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_leads_out_if_any_on_its_way_does() {
        let links = [
            ("in", "d/file"),
            ("missing", "d/none"),
            ("d/up", "../in"),
            ("d/root", ".."),
            ("d/out", "../../etc/passwd"),
            ("absolute", "/etc/passwd"),
            ("through", "d/out/x"),
            ("deep", "d/root/d/root/d/up"),
            ("deeper", "d/root/../x"),
            ("circle", "d/circle"),
            ("d/circle", "../circle"),
        ];
        let links: BTreeMap<_, _> = links.into_iter().map(|(link, target)| (link.into(), target.into())).collect();
        let out: Vec<&str> = links.keys().map(String::as_str).filter(|link| leads_out(&links, link)).collect();
        assert_eq!(out, ["absolute", "circle", "d/circle", "d/out", "deeper", "through"]);
    }
}
