//go:build !unix

package main

// noFollow is nothing where links need rights of their own to be made.
const noFollow = 0
