// Package life holds tests of the running program's life: it is reloaded, upgraded, drained, starved and killed while clients use
// it, over loopback and without any right. It has no code besides.
package life
