use super::*;

fn change(key: &[u8], value: Option<&[u8]>) -> Change {
    Change { table: "t", key: key.to_vec(), value: value.map(<[u8]>::to_vec) }
}

fn create(path: &Path) -> Store {
    let mut store = Store::create(path).expect("new");
    store.keep().expect("its name is free");
    store
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.redb");
    let store = create(&path);
    assert_eq!(store.get("t", b"a").expect("empty"), None);
    store.write(&[change(b"b", Some(b"2")), change(b"a", Some(b"1"))]).expect("written");
    store.write(&[change(b"b", None), change(b"c", Some(b"3"))]).expect("written");
    drop(store);
    let store = Store::open(&path).expect("there");
    let expected = [(b"a".to_vec(), b"1".to_vec()), (b"c".to_vec(), b"3".to_vec())];
    assert_eq!(store.list("t").expect("read"), expected);
}

#[test]
fn one_process_at_a_time_has_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.redb");
    let _store = create(&path);
    assert!(matches!(Store::open(&path), Err(StoreError::Busy(_))));
}

#[test]
fn a_store_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.redb");
    let count = || std::fs::read_dir(folder.path()).expect("a list").count();
    let mut first = Store::create(&path).expect("new");
    first.write(&[change(b"a", Some(b"1"))]).expect("written");
    assert!(matches!(Store::open(&path), Err(StoreError::Absent(_))), "not published yet");
    let mut second = Store::create(&path).expect("its maker is alive, so it stays");
    assert_eq!(count(), 2);
    first.publish().expect("its name is free");
    assert!(matches!(second.publish(), Err(StoreError::Busy(_))), "the name is taken");
    drop(second);
    assert_eq!(count(), 1);
    drop(first);
    assert_eq!(count(), 0, "published and not kept");
}

#[test]
fn what_a_killed_maker_left_is_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let left = folder.path().join("x.new-0123");
    std::fs::write(&left, "half").expect("written");
    std::fs::write(folder.path().join("y.new-0123"), "another's").expect("written");
    let _store = create(&folder.path().join("x.redb"));
    assert!(!left.exists() && folder.path().join("y.new-0123").exists());
}

#[test]
fn absence_and_damage_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.redb");
    assert!(matches!(Store::open(&path), Err(StoreError::Absent(_))));
    for damage in [Vec::new(), vec![7; 100], vec![0; 100_000]] {
        std::fs::write(&path, &damage).expect("written");
        assert!(matches!(Store::open(&path), Err(StoreError::Damaged(_))));
        assert_eq!(std::fs::read(&path).expect("still there"), damage, "left as it was");
    }
}

#[test]
fn a_newer_version_is_refused_by_its_number() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.redb");
    let store = create(&path);
    let value = Some((STORE_VERSION + 1).to_be_bytes().to_vec());
    store.write(&[Change { table: META, key: VERSION.to_vec(), value }]).expect("written");
    drop(store);
    let error = Store::open(&path).expect_err("newer").to_string();
    assert!(error.contains("is of version 2, this program knows 1"), "{error}");
}
