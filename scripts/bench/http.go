//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
)

// The loads are HTTP/1.1, of which this is as much as they need: heads with any headers, bodies by
// Content-Length.

const (
	pathSmall = "/small"
	pathDown  = "/down"
	pathUp    = "/up"

	headEnd = "\r\n\r\n"
	// endless is the length of a body that is broken off at the end of a load.
	endless = 1 << 62
)

var (
	requestKept  = "GET " + pathSmall + " HTTP/1.1\r\nHost: bench\r\n\r\n"
	requestClose = "GET " + pathSmall + " HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
	requestDown  = "GET " + pathDown + " HTTP/1.1\r\nHost: bench\r\n\r\n"
	requestUp    = fmt.Sprintf("POST %s HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n", pathUp, endless)

	responseSmall = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", len(smallBody), smallBody)
	responseDown  = fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", endless)

	smallBody = string(bytes.Repeat([]byte{'x'}, 100))
)

var errHead = errors.New("not an HTTP/1.1 head")

// head is the head of a request or a response. It borrows the bytes it was parsed from.
type head struct {
	first  [3][]byte // method, path, version; or version, status, reason
	close  bool      // Connection: close
	length int64     // Content-Length, 0 without one
	size   int       // of the head itself
}

// parseHead says size 0 if b does not hold a whole head yet.
func parseHead(b []byte) (head, error) {
	var h head
	end := bytes.Index(b, []byte(headEnd))
	if end < 0 {
		return h, nil
	}
	line, rest, _ := bytes.Cut(b[:end+2], []byte("\r\n"))
	var ok1, ok2 bool
	h.first[0], line, ok1 = bytes.Cut(line, []byte(" "))
	h.first[1], h.first[2], ok2 = bytes.Cut(line, []byte(" "))
	if !ok1 || !ok2 {
		return h, errHead
	}
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return h, errHead
		}
		value = bytes.TrimSpace(value)
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			n, err := strconv.ParseInt(string(value), 10, 64)
			if err != nil || n < 0 {
				return h, errHead
			}
			h.length = n
		case bytes.EqualFold(name, []byte("Connection")):
			h.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	h.size = end + len(headEnd)
	return h, nil
}

// answered tells whether b holds a whole answer of the server's; an error if it never will.
func answered(b []byte) (bool, error) {
	h, err := parseHead(b)
	switch {
	case err != nil || h.size == 0:
		return false, err
	case string(h.first[0]) != "HTTP/1.1" || string(h.first[1]) != "200":
		return false, fmt.Errorf("an answer %s %s", h.first[0], h.first[1])
	case int64(len(b)-h.size) > h.length:
		return false, errors.New("more of an answer than it announces")
	}
	return int64(len(b)-h.size) == h.length, nil
}
