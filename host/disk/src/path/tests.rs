use crate::chunk::Mark;
use crate::*;

/// Returns a disk with the files and links of the tests, and the directory `base` in it, which paths start at.
fn disk() -> (Disk, Ino) {
    let mut disk = Disk::new(0);
    disk.enter(Call { now_ns: 1, mark: Mark::new(1, 0), limit_bytes: 1 << 20, is_read_only: false });
    let create = OpenHow { create: true, ..OpenHow::default() };
    for path in ["base", "base/d", "base/d/e", "beside"] {
        disk.create_directory_at(Ino::ROOT, path).expect("there is room");
    }
    for path in ["outside", "base/f", "base/d/f"] {
        let (ino, _) = disk.open_at(Ino::ROOT, path, create).expect("there is room");
        disk.write(ino, 0, path.as_bytes()).expect("there is room");
        disk.close(ino);
    }
    let links = [
        ("d", "to_directory"),
        ("f", "to_file"),
        ("f/", "to_file_with_slash"),
        ("to_directory", "to_link"),
        ("nothing", "to_nothing"),
        ("itself", "itself"),
        ("../outside", "to_outside"),
        ("d/../../outside", "to_outside_by_detour"),
        ("../base/f", "out_and_in"),
        ("..", "up"),
    ];
    for (target, path) in links {
        disk.symlink_at(target, Ino::ROOT, &format!("base/{path}")).expect("there is room");
    }
    let open = OpenHow { directory: true, ..OpenHow::default() };
    let (base, _) = disk.open_at(Ino::ROOT, "base", open).expect("it was just made");
    (disk, base)
}

/// Returns the contents of the file that the path leads to.
fn read(path: &str, follow: bool) -> Result<String> {
    let (mut disk, base) = disk();
    let (ino, kind) = disk.open_at(base, path, OpenHow { follow, ..OpenHow::default() })?;
    if kind == Type::Directory {
        return Ok("directory".into());
    }
    let bytes = disk.read(ino, 0, 100)?;
    Ok(String::from_utf8(bytes).expect("its path"))
}

#[test]
fn paths_within_the_base_lead_to_their_files() {
    let cases = [
        ("f", "base/f"),
        ("./f", "base/f"),
        ("d//f", "base/d/f"),
        ("d/e/../../f", "base/f"),
        ("d/..", "directory"),
        (".", "directory"),
        ("d/", "directory"),
        ("to_file", "base/f"),
        ("to_link/f", "base/d/f"),
        ("to_directory/../f", "base/f"),
    ];
    for (path, expected) in cases {
        assert_eq!(read(path, true).as_deref(), Ok(expected), "{path}");
    }
}

#[test]
fn no_path_leads_out_of_the_base() {
    for path in ["/", "/f", "..", "../base", "../base/f", "d/../..", "d/../../outside", "d/e/../../../beside"] {
        assert_eq!(read(path, true), Err(Error::NotPermitted), "{path}");
    }
    for path in ["to_outside", "to_outside_by_detour", "out_and_in", "up", "up/outside", "d/../up/base/f"] {
        assert_eq!(read(path, true), Err(Error::NotPermitted), "{path}");
    }
    let (mut disk, base) = disk();
    let out = "../outside";
    assert_eq!(disk.symlink_at("/outside", base, "absolute"), Err(Error::NotPermitted));
    assert_eq!(disk.link_at(base, out, base, "linked"), Err(Error::NotPermitted));
    assert_eq!(disk.link_at(base, "f", base, "../linked"), Err(Error::NotPermitted));
    assert_eq!(disk.rename_at(base, out, base, "renamed"), Err(Error::NotPermitted));
    assert_eq!(disk.rename_at(base, "f", base, "../renamed"), Err(Error::NotPermitted));
    assert_eq!(disk.unlink_at(base, out), Err(Error::NotPermitted));
    assert_eq!(disk.remove_directory_at(base, "../beside"), Err(Error::NotPermitted));
    assert_eq!(disk.create_directory_at(base, "../new"), Err(Error::NotPermitted));
}

#[test]
fn a_descriptor_of_a_moved_directory_stays_within_it() {
    let (mut disk, base) = disk();
    disk.rename_at(Ino::ROOT, "base", Ino::ROOT, "beside/moved").expect("it is no ancestor");
    assert_eq!(disk.stat_at(base, "..", true), Err(Error::NotPermitted));
    assert_eq!(disk.stat_at(base, "d/e/../../f", true).expect("it is there").kind, Type::File);
    let beside = disk.stat_at(Ino::ROOT, "beside/moved/..", true).expect("it is there");
    assert_eq!(beside, disk.stat_at(Ino::ROOT, "beside", true).expect("it is there"));
}

#[test]
fn links_are_followed_in_the_middle_and_at_the_end_where_wanted() {
    assert_eq!(read("to_file", false), Err(Error::Loop));
    assert_eq!(read("to_directory/f", false).as_deref(), Ok("base/d/f"));
    assert_eq!(read("itself", true), Err(Error::Loop));
    assert_eq!(read("to_nothing", true), Err(Error::NoEntry));
}

#[test]
fn a_slash_at_the_end_follows_all_links_and_needs_a_directory() {
    for follow in [false, true] {
        assert_eq!(read("to_directory/", follow).as_deref(), Ok("directory"));
        assert_eq!(read("to_link/", follow).as_deref(), Ok("directory"));
        assert_eq!(read("f/", follow), Err(Error::NotDirectory));
        assert_eq!(read("to_file/", follow), Err(Error::NotDirectory));
        assert_eq!(read("itself/", follow), Err(Error::Loop));
    }
    assert_eq!(read("to_file_with_slash", true), Err(Error::NotDirectory));
}

#[test]
fn a_file_is_created_where_a_link_leads() {
    let (mut disk, base) = disk();
    let create = OpenHow { create: true, follow: true, ..OpenHow::default() };
    disk.open_at(base, "to_nothing", create).expect("there is room");
    assert_eq!(disk.stat_at(base, "nothing", false).expect("it was created").kind, Type::File);
    assert_eq!(disk.open_at(base, "new/", create), Err(Error::IsDirectory));
    assert_eq!(disk.open_at(base, "to_outside", create), Err(Error::NotPermitted));
    let exclusive = OpenHow { exclusive: true, ..create };
    assert_eq!(disk.open_at(base, "to_nothing", exclusive), Err(Error::Exist));
}

#[test]
fn a_removed_directory_has_no_entries_and_gets_none() {
    let (mut disk, base) = disk();
    let open = OpenHow { directory: true, ..OpenHow::default() };
    let (removed, _) = disk.open_at(base, "d/e", open).expect("it is there");
    disk.remove_directory_at(base, "d/e").expect("it is empty");
    let create = OpenHow { create: true, ..OpenHow::default() };
    assert_eq!(disk.open_at(removed, "new", create), Err(Error::NoEntry));
    assert_eq!(disk.create_directory_at(removed, "new"), Err(Error::NoEntry));
    assert_eq!(disk.rename_at(base, "f", removed, "f"), Err(Error::NoEntry));
    assert_eq!(disk.stat_at(removed, ".", true).expect("it is open").links, 0);
    assert_eq!(disk.stat_at(removed, "..", true), Err(Error::NotPermitted));
    assert_eq!(disk.list(removed).expect("it is open").count(), 0);
    disk.close(removed);
    assert_eq!(disk.stat_at(removed, ".", true), Err(Error::BadDescriptor));
}
