package port

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The tests run in a network and mount namespace of their own, so that they
// make devices without touching the machine's network, as root or as anybody.
const insideEnv = "TUNLB_PORT_TEST_INSIDE"

// noKernel says why the tests that need a kernel's TUN cannot run.
var noKernel string

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) == "" {
		if code, err := runInside(); err == nil {
			os.Exit(code)
		} else {
			noKernel = err.Error()
		}
	} else if err := settle(); err != nil {
		noKernel = err.Error()
	}
	goleak.VerifyTestMain(m)
}

// runInside runs this binary again in fresh namespaces. The error means that
// the kernel refused to make them.
func runInside() (code int, err error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Env = append(os.Environ(), insideEnv+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	attr := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL, // of the thread, hence the lock
	}
	if uid := os.Getuid(); uid != 0 {
		// The own uid, since mapping root needs newuidmap or leaves files
		// owned by somebody else; capabilities survive exec as ambient ones.
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW, unix.CAP_NET_BIND_SERVICE, unix.CAP_SYS_ADMIN}
	}
	cmd.SysProcAttr = attr
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("no namespaces for the tests: %w", err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); errors.As(err, &exit) {
		return max(exit.ExitCode(), 1), nil // a signal is -1
	} else if err != nil {
		return 1, nil
	}
	return 0, nil
}

// settle keeps our mounts to ourselves and tries what the tests need: some
// systems give a user namespace but no capabilities in it.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up in the tests' network namespace: %w", err)
	}
	return nil
}

// space is a network namespace that lives as long as the test.
type space struct {
	path string
	nl   *netlink.Handle
	gone bool // the test has given it up itself
}

func newSpace(t testing.TB) *space {
	t.Helper()
	if noKernel != "" {
		t.Skip(noKernel)
	}
	path := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	made := make(chan error)
	go func() { made <- makeNetNS(path) }()
	if err := <-made; err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
	handle, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	nl, err := netlink.NewHandleAt(handle)
	if err != nil {
		t.Fatal(err)
	}
	s := &space{path: path, nl: nl}
	t.Cleanup(func() {
		if s.gone {
			return
		}
		nl.Close()
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return s
}

// makeNetNS keeps its thread if that does not get home again. Ending it is no
// good habit: a main thread does not end, it stays abroad.
func makeNetNS(path string) error {
	runtime.LockOSThread()
	home, err := openNetNS("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer unix.Close(home)
	err = unix.Unshare(unix.CLONE_NEWNET)
	if err == nil {
		err = unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}
	if unix.Setns(home, unix.CLONE_NEWNET) == nil {
		runtime.UnlockOSThread()
	}
	return err
}

// open opens a port in the namespace and closes it after the test.
func (s *space) open(t testing.TB, cfg TUNConfig) Port {
	t.Helper()
	cfg.NetNS = s.path
	p, err := OpenTUN(cfg)
	if errors.Is(err, ErrUnavailable) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// up sets a device up with an address of each family, 10.<subnet>.0.1/24 and
// fd00:<subnet>::1/64, and routes all else through it.
func (s *space) up(t testing.TB, device string, subnet int) {
	t.Helper()
	link, err := s.nl.LinkByName(device)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.nl.LinkSetUp(link); err != nil {
		t.Fatal(err)
	}
	for _, cidr := range []string{fmt.Sprintf("10.%d.0.1/24", subnet), fmt.Sprintf("fd00:%d::1/64", subnet)} {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			t.Fatal(err)
		}
		if addr.IP.To4() == nil {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := s.nl.AddrAdd(link, addr); err != nil {
			t.Fatalf("add %s to %s: %v", cidr, device, err)
		}
		s.awaitLocal(t, addr.IP)
	}
	for _, all := range []string{"0.0.0.0/0", "::/0"} {
		_, dst, _ := net.ParseCIDR(all)
		if err := s.nl.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: dst}); err != nil {
			t.Fatalf("route %s to %s: %v", all, device, err)
		}
	}
}

// awaitLocal returns when the kernel takes packets to ip for its own: an IPv6
// address becomes local by deferred work, even one without duplicate detection.
func (s *space) awaitLocal(t testing.TB, ip net.IP) {
	t.Helper()
	for {
		routes, err := s.nl.RouteGet(ip)
		if err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL {
			return
		}
		if err != nil && !errors.Is(err, unix.ENETUNREACH) {
			t.Fatalf("route to %s: %v", ip, err)
		}
		runtime.Gosched()
	}
}

// do runs f in the namespace.
func (s *space) do(t testing.TB, f func() error) {
	t.Helper()
	if err := inNetNS(s.path, f); err != nil {
		t.Fatal(err)
	}
}
