package health

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/policy"
)

// trusted is the certificate of the tests' servers: of web.example, 127.0.0.1 and ::1, and its own root.
var trusted tls.Certificate

// TestMain runs the tests in a network namespace of their own where there are some, so that all ports are
// theirs and pings are allowed.
func TestMain(m *testing.M) { os.Exit(netns.Main(func() int { return run(m) })) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "health")
	if err == nil {
		defer os.RemoveAll(dir)
		trusted, err = certificate(filepath.Join(dir, "root.pem"))
	}
	if err == nil {
		err = os.Setenv("SSL_CERT_FILE", filepath.Join(dir, "root.pem")) // read with the first verification
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := goleak.Find(); err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// certificate makes a key and a certificate that signs itself, which goes to a file if there is one.
func certificate(file string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web.example"}, DNSNames: []string{"web.example"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	if file != "" {
		err = os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// eachFamily runs f with the loopback address of each.
func eachFamily(t *testing.T, f func(t *testing.T, loopback netip.Addr)) {
	for name, addr := range map[string]netip.Addr{"v4": netip.MustParseAddr("127.0.0.1"), "v6": netip.IPv6Loopback()} {
		t.Run(name, func(t *testing.T) { f(t, addr) })
	}
}

// serveTCP has handle see each connection, and closes it afterwards.
func serveTCP(t testing.TB, addr netip.Addr, handle func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	accept(t, l, handle)
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func accept(t testing.TB, l net.Listener, handle func(net.Conn)) {
	var all sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			all.Go(func() {
				handle(c)
				mu.Lock()
				delete(open, c)
				mu.Unlock()
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
}

// serveUDP answers each datagram with what answer makes of it, if that is not nil.
func serveUDP(t testing.TB, addr netip.Addr, answer func([]byte) [][]byte) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 0)))
	if err != nil {
		t.Fatal(err)
	}
	var done sync.WaitGroup
	done.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := c.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			for _, a := range answer(buf[:n]) {
				_, _ = c.WriteToUDPAddrPort(a, from)
			}
		}
	})
	t.Cleanup(func() { c.Close(); done.Wait() })
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// closed is an address where nothing listens.
func closed(t testing.TB, addr netip.Addr) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", netip.AddrPortFrom(addr, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// short is the timeout of probes that are to run into it, patient that of all others.
const (
	short   = 50 * time.Millisecond
	patient = 20 * time.Second
)

// once probes through the kernel and returns the cause of failure.
func once(at netip.AddrPort, h policy.Health) string {
	if h.Timeout == 0 {
		h.Timeout = patient
	}
	t := Target{Key: Key{"web", at}, Name: "rs1", Address: at, Health: h, Dial: Kernel{}}
	return newProbe(&t).run(context.Background())
}
