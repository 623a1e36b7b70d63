//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
)

// This program's other lives. They are processes of their own so that no two of client, server and bare
// loop share a Go runtime.
const (
	childPrefix = "child-"
	childClient = childPrefix + "client"
	childServer = childPrefix + "server"
	childBare   = childPrefix + "bare"

	childBareDirect = childPrefix + "bare-dr"
	childRing       = childPrefix + "ring"
	childWireguard  = childPrefix + "wireguard"
	childAwake      = childPrefix + "awake"
)

// Commands to client and server, a line each on their standard input; they answer with a line of JSON.
// They end when the input does, hence with whoever started them.
const (
	cmdStart  = "start"  // NAME STREAMS: begin a load (client)
	cmdStop   = "stop"   // end it (client)
	cmdMark   = "mark"   // set the counters to zero
	cmdReport = "report" // the counters since the mark
)

// counters are what happened since the mark.
type counters struct {
	Elapsed  time.Duration
	In, Out  uint64        // payload bytes received and sent
	Requests uint64        // answers received by the client, sent by the server
	Conns    uint64        // connections completed by the client, accepted by the server
	Errors   uint64        // connections broken, answers that are none
	Error    string        // the last of them
	Open     int           // connections at this moment
	P50, P99 time.Duration // of a request; only of the load idle
}

func runChild(mode string, args []string) error {
	runtime.GOMAXPROCS(2) // one to work, one for the runtime's own purposes
	runtime.LockOSThread()
	run, ok := map[string]func([]string) error{
		childBare: runBareChild, childBareDirect: runBareDirectChild, childRing: runRingChild,
		childWireguard: runWireguardChild, childAwake: runAwakeChild,
	}[mode]
	if ok {
		runtime.GOMAXPROCS(runtime.NumCPU()) // as tunlb has it
		return run(args)
	}
	if len(args) != 1 {
		return fmt.Errorf("%s takes an address", mode)
	}
	addr, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return err
	}
	l, err := newLoop()
	if err != nil {
		return err
	}
	switch mode {
	case childClient:
		err = l.serveControl(newClient(l, addr))
	case childServer:
		var s *loadServer
		if s, err = newServer(l, addr); err == nil {
			err = l.serveControl(s)
		}
	default:
		return fmt.Errorf("%s: unknown", mode)
	}
	if err != nil {
		return err
	}
	if err := l.run(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// commander does what a command line says.
type commander interface {
	command(args []string) (counters, error)
}

// control is the standard input as a handler of the loop.
type control struct {
	to   commander
	line []byte
}

func (l *loop) serveControl(to commander) error {
	return l.add(0, unix.EPOLLIN, &control{to: to})
}

func (c *control) ready(*loop, int, uint32) error {
	var b [256]byte
	n, err := unix.Read(0, b[:])
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	c.line = append(c.line, b[:n]...)
	for {
		line, rest, ok := strings.Cut(string(c.line), "\n")
		if !ok {
			return nil
		}
		c.line = []byte(rest)
		answer, err := c.to.command(strings.Fields(line))
		if err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
		if err := json.NewEncoder(os.Stdout).Encode(answer); err != nil {
			return err
		}
	}
}

// child is a client or a server as whoever started it sees it.
type child struct {
	cmd    *netns.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr netns.Tail
}

func startChild(ns *netns.NS, mode string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// The namespace ends it, hence no context.
	c := &child{cmd: ns.Command(context.Background(), self, append([]string{mode}, args...)...)}
	c.cmd.Stderr = &c.stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = bufio.NewReader(out)
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	// Its first answer says that it is ready.
	if _, err := c.call(cmdMark); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return c, nil
}

func (c *child) call(command ...any) (counters, error) {
	var answer counters
	_, err := fmt.Fprintln(c.in, command...)
	if err == nil {
		var line []byte
		if line, err = c.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(line, &answer)
		}
	}
	if err != nil {
		return answer, fmt.Errorf("%s: %w%s", c.cmd.Args[1], err, c.stderr.Said())
	}
	return answer, nil
}

func (c *child) close() error {
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w%s", c.cmd.Args[1], err, c.stderr.Said())
	}
	return nil
}
