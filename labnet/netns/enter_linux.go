package netns

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// How a program gets into namespaces of its own:
//  1. Enter, outside: start this program again as a child in fresh namespaces, tied to our life.
//  2. Enter, in the child: recognise that (marker), bring loopback up, test a real capability, go on.
//  3. Enter, outside: pass signals on, wait, report the child's exit code.

// marker is the environment variable that tells the child that it is one: "<parent's pid>", or
// "check:<parent's pid>" for a child that is only to find out what works. It names the parent,
// so that programs which the child starts in turn are not taken in by it.
const marker = "TUNLB_NETNS"

// capabilities are what a lab needs inside its user namespace. As ambient capabilities they
// outlive the exec although the uid stays the caller's own.
var capabilities = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_ADMIN}

// Enter puts the program into fresh network and mount namespaces, for an ordinary user within a
// user namespace, by running it a second time with the same arguments and standard streams.
// Call it first thing in main, on the main goroutine.
//   - ran: the second run has ended with code; the caller does nothing but exit with it.
//   - !ran, err == nil: this is the second run; go on.
//   - !ran, err != nil: this machine can't (*Unsupported).
//
// The second run dies with the first, however that one ends.
func Enter() (code int, ran bool, err error) {
	if parent, check := marked(); parent == os.Getppid() {
		if check {
			answerCheck()
		}
		return 0, false, settle()
	}
	cmd, err := secondRun(context.Background(), "")
	if err != nil {
		return 0, false, err
	}
	defer closeFiles(cmd.ExtraFiles)
	cmd.Args = os.Args
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr

	// The kernel sends the death signal when the *thread* that started the child ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGQUIT, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, false, refused(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }() // ends with the child
	for {
		select {
		case s := <-signals:
			if !fromTerminal(s) {
				_ = cmd.Process.Signal(s) // fails if it has ended meanwhile
			}
		case err := <-ended:
			if cmd.ProcessState == nil {
				return 0, true, err
			}
			return exitCode(cmd.ProcessState), true, nil
		}
	}
}

// Main is Enter for test binaries:
//
//	func TestMain(m *testing.M) { os.Exit(netns.Main(m.Run)) }
//
// On a machine that can't, run runs outside, and New tells each test why it can't.
func Main(run func() int) int {
	code, ran, err := Enter()
	if ran {
		if err != nil {
			fmt.Fprintln(os.Stderr, "netns:", err)
			return 1
		}
		return code
	}
	return run()
}

// Check finds out whether labs work on this machine by doing on a small scale what they do; nil
// or *Unsupported. Without the privilege it runs this program again, up to its call of Enter.
func Check() error {
	parent, check := marked()
	if check && parent == os.Getppid() {
		answerCheck() // a program that calls Check without Enter
	}
	if privileged() {
		return probe()
	}
	cmd, err := secondRun(context.Background(), "check:")
	if err != nil {
		return err
	}
	defer closeFiles(cmd.ExtraFiles)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	answer, err := cmd.Output()
	what, how, ok := strings.Cut(string(bytes.TrimSpace(answer)), "\n")
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() == ExitUnsupported && ok:
		return &Unsupported{What: what, How: how}
	case exit != nil:
		return fmt.Errorf("check namespaces: %w", err)
	}
	return refused(err)
}

// CheckTUN finds out whether TUN devices can be had, which labs as such don't need; nil or
// *Unsupported.
func CheckTUN() error {
	const device = "/dev/net/tun"
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	if err == nil {
		return f.Close()
	}
	err = errors.Unwrap(err) // the path is in What
	switch {
	case errors.Is(err, os.ErrNotExist):
		return &Unsupported{device, "load it with \"modprobe tun\"; in a container, pass it with \"--device " + device + "\"", err}
	case errors.Is(err, os.ErrPermission):
		return &Unsupported{device, "run as root, or \"chmod 0666 " + device + "\" as most distributions have it", err}
	}
	return &Unsupported{device, "load it with \"modprobe tun\"", err}
}

func marked() (parent int, check bool) {
	value, check := strings.CutPrefix(os.Getenv(marker), "check:")
	parent, err := strconv.Atoi(value)
	if err != nil {
		parent = -1 // and not 0, which is the parent of a container's first process
	}
	return parent, check
}

// answerCheck is the whole life of the child that Check starts.
func answerCheck() {
	err := settle()
	if err == nil {
		os.Exit(0)
	}
	u := &Unsupported{What: err.Error()}
	errors.As(err, &u)
	what := u.What
	if u.Err != nil {
		what += ": " + u.Err.Error()
	}
	fmt.Printf("%s\n%s\n", what, u.How)
	os.Exit(ExitUnsupported)
}

// secondRun prepares this program's second run in fresh namespaces. The caller closes ExtraFiles.
func secondRun(ctx context.Context, mark string) (*exec.Cmd, error) {
	// Not by its path, at which there may be another one by now, or none.
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s%d", marker, mark, os.Getpid()))
	// Unshare and not Cloneflags: it happens inside the new user namespace, hence uses the
	// capabilities that it gives, and os/exec then makes mounts private as well.
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:    unix.SIGKILL,
	}
	if !privileged() {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = capabilities
		// A program with file capabilities is not dumpable, its /proc files are root's, and the
		// mapping can't be written.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("become dumpable: %w", err)
		}
	}
	return cmd, shedFileCapabilities(cmd)
}

// shedFileCapabilities has cmd run a copy of this program, in memory, if there are file
// capabilities (setcap) on the program: an exec grants those and takes away the ambient ones.
func shedFileCapabilities(cmd *exec.Cmd) error {
	if _, err := unix.Getxattr(cmd.Path, "security.capability", nil); err != nil {
		return nil // there are none
	}
	program, err := os.Open(cmd.Path)
	if err != nil {
		return fmt.Errorf("copy the running program: %w", err)
	}
	defer program.Close()
	fd, err := unix.MemfdCreate("program", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("copy the running program: %w", err)
	}
	memory := os.NewFile(uintptr(fd), "program")
	if _, err := io.Copy(memory, program); err != nil {
		memory.Close()
		return fmt.Errorf("copy the running program: %w", err)
	}
	// Open for writing it couldn't be executed. The child inherits the descriptor as number 3.
	readable, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", fd))
	memory.Close()
	cmd.Path, cmd.ExtraFiles = "/proc/self/fd/3", []*os.File{readable}
	return err
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// privileged tells whether namespaces can be made without a user namespace around them.
func privileged() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&header, &data[0]) != nil {
		return false
	}
	for _, c := range capabilities {
		if data[0].Effective&(1<<c) == 0 {
			return false
		}
	}
	return true
}

// settle is what the second run does first.
func settle() error {
	// Loopback is up before anyone uses package net, which looks for ::1 once and remembers.
	if err := loopbackUp(); err != nil {
		return refused(err)
	}
	return probe()
}

func loopbackUp() error {
	handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	lo, err := handle.LinkByName("lo")
	if err != nil {
		return err
	}
	return handle.LinkSetUp(lo)
}

// probe makes a veth pair in a namespace that lives no longer than this call. Making the
// namespaces is not proof enough: AppArmor (Ubuntu) grants them and then refuses their use.
func probe() error {
	return visit(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() error {
		handle, err := netlink.NewHandle(unix.NETLINK_ROUTE)
		if err != nil {
			return refused(err)
		}
		defer handle.Close()
		err = handle.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "probe0"}, PeerName: "probe1"})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return &Unsupported{"veth pairs", "load the module with \"modprobe veth\"", err}
		}
		return refused(err)
	})
}

// refused turns the system's answer into what it means here; nil stays nil.
func refused(err error) error {
	var u *Unsupported
	if err == nil || errors.As(err, &u) {
		return err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		err = path.Err // that of the program started is of no interest
	}
	u = &Unsupported{What: "network namespaces", Err: err}
	switch {
	case errors.Is(err, unix.ENOSPC):
		u.How = "their number is used up or limited to 0: sysctl user.max_user_namespaces, user.max_net_namespaces"
	case !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS):
		return err
	case os.Geteuid() == 0:
		u.How = "a container needs the capabilities NET_ADMIN and SYS_ADMIN, and a seccomp profile that lets it unshare"
	case sysctlIs("kernel/apparmor_restrict_unprivileged_userns", "1"):
		u.How = "AppArmor keeps ordinary users from it: run as root, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
	case sysctlIs("kernel/unprivileged_userns_clone", "0"):
		u.How = "ordinary users may not make user namespaces: run as root, or sysctl -w kernel.unprivileged_userns_clone=1"
	default:
		u.How = "ordinary users may not make user namespaces here: run as root"
	}
	return u
}

func sysctlIs(path, value string) bool {
	b, err := os.ReadFile("/proc/sys/" + path)
	return err == nil && string(bytes.TrimSpace(b)) == value
}

// fromTerminal tells whether a signal has reached the child without us: the terminal sends its
// signals to the whole foreground process group.
func fromTerminal(s os.Signal) bool {
	if s != unix.SIGINT && s != unix.SIGQUIT {
		return false
	}
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	foreground, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && foreground == unix.Getpgrp()
}

// exitCode is the shell's: 128 and the signal for a process that one has ended.
func exitCode(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal())
	}
	return state.ExitCode()
}
