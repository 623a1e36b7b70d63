//go:build !unix

package main

// noFollow is nothing where links need rights of their own to be made, and noWait where files are no pipes.
const noFollow, noWait = 0, 0
