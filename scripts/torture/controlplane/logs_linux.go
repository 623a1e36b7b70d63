package controlplane

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tunlb/tunlb/labnet/netns"
	"github.com/tunlb/tunlb/scripts/torture/packets"
	"github.com/tunlb/tunlb/tunlb"
)

// pipeSize is the least that the kernel lets a pipe have.
const pipeSize = 4 << 10

// LogFIFO logs n changes to a pipe that nobody reads, then reads it, then stops reading again and ends tunlb.
func LogFIFO(ctx context.Context, binary string, n int) (*packets.Result, error) {
	dir, err := os.MkdirTemp("", "tunlb-torture-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "log")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, err
	}
	out, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	in, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	defer in.Close()
	if _, err := unix.FcntlInt(out.Fd(), unix.F_SETPIPE_SZ, pipeSize); err != nil {
		return nil, err
	}
	s, err := open(ctx, binary, in, nil)
	if err != nil {
		return nil, err
	}
	in.Close() // tunlb's alone from now on
	err = s.endure(ctx, func(ctx context.Context) error { return s.changes(ctx, n) })
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	status, err := s.client.Status(ctx)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	lost := status.Daemon.Log.Lost
	s.prove("lines lost: nobody has read the pipe", float64(lost), 1, "")

	if lost == 0 {
		return &s.result, s.close() // the attack has failed, and the rest would show nothing
	}
	// Somebody reads: what was lost is told of.
	var read bytes.Buffer
	if err := readUntil(ctx, out, &read, []byte("lines of this log are lost"), func() error { return s.changes(ctx, 1) }); err != nil {
		s.want(false, "what was lost is not told: %v", err)
	}
	// And again nobody: the end does not wait for them.
	if err := s.changes(ctx, n/10); err != nil {
		return nil, errors.Join(err, s.close())
	}
	took, err := s.stop()
	s.want(err == nil, "the end with a full pipe: %v", err)
	s.atMost("end with a full pipe", took.Seconds(), 10, "s")
	return &s.result, s.close()
}

// changes gives orders, n of them, each of which is logged.
func (s *site) changes(ctx context.Context, n int) error {
	const atATime = 8
	var all sync.WaitGroup
	errs := make([]error, atATime)
	for worker := range atATime {
		all.Go(func() {
			for i := worker; i < n && errs[worker] == nil; i += atATime {
				_, errs[worker] = s.client.Order(ctx, tunlb.ServerOrder{Service: "echo", Server: "rs2", Do: "weight", Weight: 1 + i%2})
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// readUntil reads a pipe that does not block until it has said something, and provokes that.
func readUntil(ctx context.Context, pipe *os.File, into *bytes.Buffer, what []byte, provoke func() error) error {
	fd := int(pipe.Fd())
	if err := unix.SetNonblock(fd, true); err != nil {
		return err
	}
	b := make([]byte, 64<<10)
	for deadline := time.Now().Add(patience); !bytes.Contains(into.Bytes(), what); {
		switch n, err := unix.Read(fd, b); {
		case err == unix.EAGAIN || err == unix.EINTR:
			if err := provoke(); err != nil {
				return err
			}
			wait(ctx, time.Millisecond)
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			into.Write(b[:n])
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d bytes were read, the last of them %q", into.Len(), into.Bytes()[max(0, into.Len()-200):])
		}
	}
	return nil
}

// LogDiskFull logs n changes to a file of a file system of its own, which has room for some of them.
func LogDiskFull(ctx context.Context, binary string, n int) (*packets.Result, error) {
	const room = 64 << 10
	s, err := open(ctx, binary, nil, func(dir string, cmd *netns.Cmd) {
		disk := filepath.Join(dir, "disk")
		script := fmt.Sprintf(`mkdir %q && mount -t tmpfs -o size=%d none %[1]q && exec "$0" "$@" 2>%[1]q/log`, disk, room)
		cmd.Args = append([]string{"unshare", "-m", "sh", "-c", script, cmd.Path}, cmd.Args[1:]...)
		cmd.Path = unsharePath
	})
	if err != nil {
		return nil, err
	}
	// The file system is seen through the process that has mounted it.
	log := func() []byte {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/root%s", s.cmd.Process.Pid, filepath.Join(s.dir, "disk", "log")))
		return b
	}
	err = s.endure(ctx, func(ctx context.Context) error { return s.changes(ctx, n) })
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	status, err := s.client.Status(ctx)
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	s.prove("lines lost: the disk was full", float64(status.Daemon.Log.Lost), 1, "")
	s.prove("bytes on the disk", float64(len(log())), room/2, "B")

	if status.Daemon.Log.Lost == 0 {
		return &s.result, s.close()
	}
	// With room again the log goes on, and says what is missing.
	if err := os.Truncate(fmt.Sprintf("/proc/%d/fd/2", s.cmd.Process.Pid), 0); err != nil {
		return nil, errors.Join(err, s.close())
	}
	err = s.until(ctx, "the log's word of what is lost", func() error {
		if err := s.changes(ctx, 1); err != nil {
			return err
		}
		if !bytes.Contains(log(), []byte("lines of this log are lost")) {
			return errors.New("it is not there")
		}
		return nil
	})
	s.want(err == nil, "%v", err)
	took, err := s.stop()
	s.want(err == nil, "the end: %v", err)
	s.atMost("end with a log that was full", took.Seconds(), 10, "s")
	return &s.result, s.close()
}

// unsharePath is util-linux' way to a mount namespace.
const unsharePath = "/usr/bin/unshare"
