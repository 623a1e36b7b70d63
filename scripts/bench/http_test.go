//go:build linux

package main

import "testing"

func TestAnswered(t *testing.T) {
	for _, tt := range []struct {
		in   string
		done bool
		bad  bool
	}{
		{in: ""},
		{in: responseSmall[:10]},
		{in: responseSmall[:len(responseSmall)-1]},
		{in: responseSmall, done: true},
		{in: responseSmall + "x", bad: true},
		{in: "HTTP/1.1 204 No Content\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\ncontent-length:0\r\n\r\n", done: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nno colon\r\n\r\n", bad: true},
		{in: "SSH-2.0\r\n\r\n", bad: true},
	} {
		if done, err := answered([]byte(tt.in)); done != tt.done || (err != nil) != tt.bad {
			t.Errorf("answered(%q) = %t, %v, want %t, an error: %t", tt.in, done, err, tt.done, tt.bad)
		}
	}
}

func TestParseRequest(t *testing.T) {
	for _, tt := range []struct {
		in, path string
		close    bool
		length   int64
	}{
		{requestKept, pathSmall, false, 0},
		{requestClose, pathSmall, true, 0},
		{requestDown, pathDown, false, 0},
		{requestUp, pathUp, false, endless},
	} {
		h, err := parseHead([]byte(tt.in + "more"))
		if err != nil || string(h.first[1]) != tt.path || h.close != tt.close || h.length != tt.length || h.size != len(tt.in) {
			t.Errorf("parseHead(%q) = %q, close %t, length %d, size %d, %v", tt.in, h.first, h.close, h.length, h.size, err)
		}
	}
}
