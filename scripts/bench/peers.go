//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

func startDirect(context.Context, *stand, options) error { return nil }

func startNFT(ctx context.Context, s *stand, _ options) error {
	nft, err := program("nft")
	if err != nil {
		return err
	}
	s.version = versionOf(nft, "--version")
	cmd := s.lb.Command(ctx, nft, "-f", "-")
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`
table ip bench {
	chain in { type nat hook prerouting priority dstnat; ip daddr %s tcp dport %d dnat to %s; }
}`, vip.Addr(), vip.Port(), server))
	if out, err := cmd.CombinedOutput(); err != nil {
		return missing("nft says: %s", strings.TrimSpace(string(out)))
	}
	return nil
}

// onBox gives the box the VIP, for programs that listen on it.
func (s *stand) onBox() error { return s.lb.AddAddress("lo", netip.PrefixFrom(vip.Addr(), 32)) }

func startHAProxy(ctx context.Context, s *stand, o options) error {
	haproxy, err := program("haproxy")
	if err != nil {
		return err
	}
	s.version = versionOf(haproxy, "-v")
	config, err := s.write("haproxy.cfg", fmt.Sprintf(`
global
	maxconn 4096
defaults
	mode tcp
	timeout connect 5s
	timeout client 1m
	timeout server 1m
listen web
	bind %s
	server rs1 %s
`, vip, server))
	if err != nil {
		return err
	}
	if err := s.onBox(); err != nil {
		return err
	}
	s.process, err = startProcess(s.lb.Command(ctx, haproxy, "-db", "-f", config), o.verbose)
	return err
}

func startNginx(ctx context.Context, s *stand, o options) error {
	nginx, err := program("nginx")
	if err != nil {
		return err
	}
	s.version = versionOf(nginx, "-v")
	module, err := streamModule(nginx)
	if err != nil {
		return err
	}
	config, err := s.write("nginx.conf", fmt.Sprintf(`
%s
daemon off;
pid %s/nginx.pid;
error_log stderr error;
worker_processes auto;
events { worker_connections 4096; }
stream { server { listen %s; proxy_pass %s; } }
`, module, s.dir, vip, server))
	if err != nil {
		return err
	}
	if err := s.onBox(); err != nil {
		return err
	}
	cmd := s.lb.Command(ctx, nginx, "-c", config)
	// Workers outlive a killed master, but not the first process of their PID namespace.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID}
	s.process, err = startProcess(cmd, o.verbose)
	return err
}

// streamModule gives the directive that loads nginx's stream module; empty where it is built in.
func streamModule(nginx string) (string, error) {
	built, err := exec.Command(nginx, "-V").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s -V: %w", nginx, err)
	}
	if !strings.Contains(string(built), "--with-stream=dynamic") {
		if !regexp.MustCompile(`--with-stream(\s|$)`).Match(built) {
			return "", missing("nginx was built without its stream module")
		}
		return "", nil
	}
	dir := regexp.MustCompile(`--modules-path=(\S+)`).FindSubmatch(built)
	if dir == nil {
		return "", missing("nginx -V does not say where its modules are")
	}
	module := filepath.Join(string(dir[1]), "ngx_stream_module.so")
	if _, err := os.Stat(module); err != nil {
		return "", missing("nginx's stream module is not installed (%s)", module)
	}
	return "load_module " + module + ";", nil
}

// versionOf is the first line of what a program says of itself.
func versionOf(path string, args ...string) string {
	out, _ := exec.Command(path, args...).CombinedOutput()
	line, _, _ := strings.Cut(string(out), "\n")
	line, _, _ = strings.Cut(line, " - ") // HAProxy's web address
	return strings.TrimSpace(line)
}
