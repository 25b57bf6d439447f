use super::*;

fn line(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

fn vetted(text: &str) -> Result<Machine, VetError> {
    vet(&line(&format!("qemu-system-x86_64 {text}")))
}

/// What QEMU gets, files as `<N>`.
fn words(machine: &Machine) -> String {
    let shown = machine.words.iter().map(|word| match word {
        Word::Text(text) => text.clone(),
        Word::File(before, file, after) => format!("{before}<{file}>{after}"),
    });
    shown.collect::<Vec<_>>().join(" ")
}

/// Lines that run, and what QEMU is told.
const GOOD: [(&str, &str); 42] = [
    ("", ""),
    ("-m 2G", "-m size=2G"),
    ("-m size=1G,maxmem=4G,slots=2", "-m size=1G,maxmem=4G,slots=2"),
    ("--m 512 -smp 2", "-m size=512 -smp cpus=2"),
    ("-smp 4,sockets=1,cores=4", "-smp cpus=4,sockets=1,cores=4"),
    ("-M q35", "-M type=q35"),
    ("-machine pc,accel=kvm:tcg,usb=off", "-machine type=pc,accel=kvm:tcg,usb=off"),
    ("-cpu host,-avx512f,+aes", "-cpu host,-avx512f,+aes"),
    ("-enable-kvm", "-accel kvm"),
    ("-accel tcg,thread=multi", "-accel accel=tcg,thread=multi"),
    (
        "-drive file=guest.img,format=raw,snapshot=on",
        "-drive file=<0>,format=raw,snapshot=on,file.locking=off",
    ),
    (
        "-drive if=virtio,file=a.qcow2,format=qcow2,cache=none,aio=native",
        "-drive file=<0>,if=virtio,cache=none,aio=native,format=qcow2,file.locking=off",
    ),
    (
        "-drive media=cdrom,file=/srv/x.iso,format=raw",
        "-drive file=<0>,media=cdrom,format=raw,readonly=on,file.locking=off",
    ),
    (
        "-snapshot -drive file=./nbd:x,format=raw",
        "-drive file=<0>,format=raw,snapshot=on,file.locking=off",
    ),
    (
        "-snapshot -drive file=a,format=raw,snapshot=off",
        "-drive file=<0>,format=raw,file.locking=off",
    ),
    (
        "-drive if=pflash,format=raw,readonly=on,file=/usr/share/OVMF/OVMF_CODE.fd",
        "-drive file=<0>,if=pflash,format=raw,readonly=on,file.locking=off",
    ),
    (
        "-drive file=a,format=raw,if=none,id=d0 -device virtio-blk-pci,drive=d0,bootindex=1",
        "-drive file=<0>,if=none,id=d0,format=raw,file.locking=off \
         -device driver=virtio-blk-pci,drive=d0,bootindex=1",
    ),
    ("-drive file=a,,b,format=raw", "-drive file=<0>,format=raw,file.locking=off"),
    ("-kernel vmlinuz -initrd initrd.img", "-kernel <0> -initrd <1>"),
    ("-append console=ttyS0,115200", "-append console=ttyS0,115200"),
    ("-bios /usr/share/ovmf/OVMF.fd", "-bios <0>"),
    ("-dtb board.dtb", "-dtb <0>"),
    ("-boot n", "-boot order=n"),
    ("-boot order=cd,menu=on", "-boot order=cd,menu=on"),
    ("-name web", "-name guest=web"),
    ("-uuid 6e0b1b3c-8d0e-4d53-a7f0-d40d94a1c1a5", "-uuid 6e0b1b3c-8d0e-4d53-a7f0-d40d94a1c1a5"),
    ("-rtc base=utc,clock=host", "-rtc base=utc,clock=host"),
    (
        "-smbios type=1,serial=ds=nocloud;s=http://10.77.0.1/",
        "-smbios type=1,serial=ds=nocloud;s=http://10.77.0.1/",
    ),
    ("-fw_cfg name=opt/org.x/key,string=v", "-fw_cfg name=opt/org.x/key,string=v"),
    ("-fw_cfg opt/a,string=a/b", "-fw_cfg name=opt/a,string=a/b"),
    ("-global ICH9-LPC.disable_s3=1", "-global ICH9-LPC.disable_s3=1"),
    ("-usb -usbdevice tablet", "-usb -usbdevice tablet"),
    ("-vga std", "-vga std"),
    ("-no-reboot -no-hpet", "-no-reboot -no-hpet"),
    ("-nographic -nodefaults -no-user-config", ""),
    ("-display none -vnc none -monitor none -parallel none -nic none", ""),
    ("-serial stdio", ""),
    ("-serial mon:stdio", ""),
    (
        "-object rng-builtin,id=r -device virtio-rng-pci,rng=r",
        "-object qom-type=rng-builtin,id=r -device driver=virtio-rng-pci,rng=r",
    ),
    ("-object iothread,id=t", "-object qom-type=iothread,id=t"),
    (
        "-object memory-backend-ram,id=m,size=1G -machine q35,memory-backend=m",
        "-object qom-type=memory-backend-ram,id=m,size=1G -machine type=q35,memory-backend=m",
    ),
    (
        "-device qemu-xhci -action panic=exit-failure",
        "-device driver=qemu-xhci -action panic=exit-failure",
    ),
];

/// Lines that do not, and what the sentence names.
const BAD: [(&str, &str); 115] = [
    ("-netdev user,id=n", "-netdev"),
    ("--netdev user,id=n", "-netdev"),
    ("-net user", "-net"),
    ("-nic user", "-nic user"),
    ("-nic tap,fd=3", "-nic tap,fd=3"),
    ("-virtfs local,path=/,mount_tag=x,security_model=none", "-virtfs"),
    ("-fsdev local,id=f,path=/", "-fsdev"),
    ("-device vhost-vsock-pci,guest-cid=3", "vhost-vsock-pci"),
    ("-device vfio-pci,host=01:00.0", "vfio-pci"),
    ("-device vhost-user-fs-pci,chardev=c", "vhost-user-fs-pci"),
    ("-device vhost-user-blk-pci", "vhost-user-blk-pci"),
    ("-device ivshmem-plain,memdev=m", "ivshmem-plain"),
    ("-device virtio-9p-pci,fsdev=f,mount_tag=x", "virtio-9p-pci"),
    ("-device usb-host,vendorid=1", "usb-host"),
    ("-device usb-mtp,rootdir=/etc", "usb-mtp"),
    ("-device scsi-generic,drive=d", "scsi-generic"),
    ("-device virtio-net-pci,netdev=n", "network card"),
    ("-device e1000", "network card"),
    ("-device virtio-serial-pci", "virtio-serial-pci"),
    ("-device virtconsole,chardev=c", "virtconsole"),
    ("-device isa-debugcon,chardev=c", "isa-debugcon"),
    ("-device pci-testdev", "pci-testdev"),
    ("-device loader,file=/etc/shadow,addr=0", "loader"),
    ("-device guest-loader,kernel=/etc/shadow,addr=0", "guest-loader"),
    ("-device tpm-tis,tpmdev=t", "tpm-tis"),
    ("-device virtio-blk-pci,drive=d,romfile=/etc/shadow", "romfile"),
    ("-device VGA,romfile=x", "romfile"),
    ("-device nvme,serial=x,drive=d,pmrdev=m", "pmrdev"),
    ("-device {\"driver\":\"vfio-pci\"}", "JSON"),
    ("-device help", "help"),
    ("-device virtio-blk-pci,drive=d,drive=e", "twice"),
    ("-device virtio-blk-pci,drive=/etc", "drive"),
    ("-device id=x", "not named"),
    ("-monitor tcp:127.0.0.1:4444,server", "-monitor tcp"),
    ("-monitor stdio", "-monitor stdio"),
    ("-monitor /dev/null", "-monitor"),
    ("-qmp unix:/tmp/x,server", "-qmp"),
    ("-qmp-pretty stdio", "-qmp-pretty"),
    ("-mon chardev=c", "-mon"),
    ("-serial tcp:10.0.0.1:99", "-serial tcp"),
    ("-serial file:/etc/cron.d/x", "-serial file"),
    ("-serial /dev/ttyS0", "-serial /dev"),
    ("-serial pty", "-serial pty"),
    ("-serial none", "-serial none"),
    ("-parallel /dev/lp0", "-parallel"),
    ("-chardev socket,id=c,host=1.2.3.4,port=1", "-chardev"),
    ("-chardev file,id=c,path=/etc/x", "-chardev"),
    ("-debugcon file:x", "-debugcon"),
    ("-gdb tcp::1234", "-gdb"),
    ("-s", "-s "),
    ("-S", "-S "),
    ("-vnc :1", "-vnc"),
    ("-display vnc=:1", "-display"),
    ("-display gtk", "-display"),
    ("-spice port=1", "-spice"),
    ("-incoming tcp:0:4444", "-incoming"),
    ("-loadvm x", "-loadvm"),
    ("-readconfig x.cfg", "-readconfig"),
    ("-writeconfig /etc/x", "-writeconfig"),
    ("-daemonize", "-daemonize"),
    ("-pidfile /etc/x", "-pidfile"),
    ("-runas root", "-runas"),
    ("-chroot /", "-chroot"),
    ("-sandbox off", "-sandbox"),
    ("-add-fd fd=3,set=1", "-add-fd"),
    ("-D /etc/x", "-D"),
    ("-d in_asm", "-d "),
    ("-trace file=/etc/x", "-trace"),
    ("-plugin x.so", "-plugin"),
    ("-L /tmp", "-L"),
    ("-option-rom /etc/shadow", "-option-rom"),
    ("-acpitable file=/etc/shadow", "-acpitable"),
    ("-smbios file=/etc/shadow", "file"),
    ("-smbios type=11,path=/etc/shadow", "path"),
    ("-smbios serial=x", "type"),
    ("-fw_cfg name=opt/x,file=/etc/shadow", "file"),
    ("-fw_cfg name=etc/x,string=1", "opt/"),
    ("-fw_cfg opt/x,gen_id=k", "gen_id"),
    ("-object rng-random,id=r,filename=/etc/shadow", "rng-builtin"),
    ("-object memory-backend-file,id=m,mem-path=/etc,size=1G", "objects are"),
    ("-object secret,id=s,file=/etc/shadow", "objects are"),
    ("-object filter-dump,id=f,netdev=ovl0,file=/x", "objects are"),
    ("-object memory-backend-ram,id=m,size=1G,prealloc=on", "prealloc"),
    ("-object iothread,id=ovl0", "this program's"),
    ("-mem-path /dev/hugepages", "-mem-path"),
    ("-machine pc,dumpdtb=/etc/x", "dumpdtb"),
    ("-machine pc,firmware=/etc/shadow", "firmware"),
    ("-machine pc,kernel=/etc/shadow", "kernel"),
    ("-machine pc,accel=xen", "kvm or tcg"),
    ("-accel hvf", "kvm or tcg"),
    ("-accel tcg,perf=on", "perf"),
    ("-boot splash=/etc/shadow", "splash"),
    ("-global vfio-pci.host=1", "-global"),
    ("-global driver=VGA,property=romfile,value=/etc/shadow", "-global"),
    ("-usbdevice braille", "-usbdevice"),
    ("-drive file=a.img", "format=raw or format=qcow2"),
    ("-drive file=a.img,format=vmdk", "raw or qcow2"),
    ("-drive format=raw", "file=FILE"),
    ("-drive file=nbd:10.0.0.1:10809,format=raw", "colon"),
    ("-drive file=json:{\"driver\":\"nbd\"},format=raw", "colon"),
    ("-drive file=fat:rw:/etc,format=raw", "colon"),
    ("-drive file=ssh://h/x,format=raw", "colon"),
    ("-drive file=/dev/sda,format=raw", "/dev"),
    ("-drive file=/dev/fdset/1,format=raw", "/dev"),
    ("-drive file=/proc/1/environ,format=raw", "/proc"),
    ("-drive file=a,format=raw,file=/etc/shadow", "twice"),
    ("-drive file=a,format=raw,file.filename=/etc/shadow", "file.filename"),
    ("-drive file=a,format=qcow2,backing.file.filename=/x", "backing"),
    ("-drive file=a,format=raw,driver=nbd", "driver"),
    ("-blockdev driver=host_device,node-name=x,filename=/dev/sda", "-blockdev"),
    ("-hda guest.img", "-drive file=FILE"),
    ("-cdrom x.iso", "media=cdrom"),
    ("guest.img", "-drive file=FILE"),
    ("-no-such-option", "is not among"),
    ("-m", "value is missing"),
];

#[test]
fn good_lines_are_written_anew_from_what_was_understood() {
    for (text, expected) in GOOD {
        let machine = vetted(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(words(&machine), expected, "{text}");
    }
}

#[test]
fn bad_lines_are_refused_in_one_sentence_that_names_the_word() {
    for (text, named) in BAD {
        let error = vetted(text).expect_err(text).to_string();
        assert!(error.contains(named), "{text}: {error}");
        assert!(!error.contains('\n'), "{text}: {error}");
        // A good word in front of it changes nothing.
        assert!(vetted(&format!("-m 1G {text}")).is_err(), "-m 1G {text}");
    }
}

#[test]
fn only_qemu_is_run() {
    for bad in
        ["sh", "qemu-img", "./qemu-system-x86_64", "qemu-system-", "x/qemu-system-arm", "/bin/sh"]
    {
        assert!(matches!(vet(&line(bad)), Err(VetError::Program(_))), "{bad}");
    }
    assert_eq!(vet(&[]), Err(VetError::Empty));
    for good in ["qemu-system-x86_64", "/usr/bin/qemu-system-aarch64"] {
        vet(&line(good)).unwrap_or_else(|error| panic!("{good}: {error}"));
    }
}

#[test]
fn files_are_wanted_with_what_is_done_with_them() {
    let machine = vetted(
        "-kernel k -drive file=a,,b,format=raw -drive file=c,format=qcow2,snapshot=on \
         -drive file=d,format=raw,readonly=on",
    )
    .expect("good");
    let wanted: Vec<_> =
        machine.files.iter().map(|file| (file.path.to_str().expect("text"), file.kind)).collect();
    let disk = FileKind::Disk;
    assert_eq!(
        wanted,
        [
            ("k", FileKind::Kernel),
            ("a,b", disk(Format::Raw, Access::Write)),
            ("c", disk(Format::Qcow2, Access::Snapshot)),
            ("d", disk(Format::Raw, Access::Read)),
        ]
    );
}

/// A value that swallows the next option, and texts that only look like options, do no harm.
#[test]
fn values_are_never_taken_for_options() {
    let machine = vetted("-append -sandbox").expect("a text for the kernel");
    assert_eq!(words(&machine), "-append -sandbox");
    assert!(vetted("-cpu -netdev user").is_err());
    assert!(vetted("-name -netdev user").is_err());
    let long = vec!["-usb".to_owned(); 300];
    let long: Vec<_> = std::iter::once("qemu-system-x86_64".to_owned()).chain(long).collect();
    assert!(vet(&long).is_err());
    assert!(vetted(&format!("-append {}", "x".repeat(5000))).is_err());
}

proptest::proptest! {
    /// Whatever is typed, nothing panics, and what passes names no path of this host.
    #[test]
    fn no_line_reaches_a_file_by_itself(
        texts in proptest::collection::vec("[-a-z=,:/.{}0-9]{0,24}", 0..6),
    ) {
        let line: Vec<_> =
            std::iter::once("qemu-system-x86_64".to_owned()).chain(texts).collect();
        if let Ok(machine) = vet(&line) {
            for word in machine.words.chunks(2) {
                let [Word::Text(option), Word::Text(value)] = word else { continue };
                let free = ["-append", "-smbios", "-fw_cfg"].contains(&option.as_str());
                proptest::prop_assert!(free || !value.contains('/'), "{option} {value}");
            }
        }
    }
}
