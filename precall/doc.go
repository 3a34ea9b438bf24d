// Package precall is the test that a person runs minutes before a call: a page that measures, and an analysis that names
// the cause.
//
// The page (web/) only measures: devices, WebSocket and a held long-poll towards the gateway, TURN over UDP, TCP and TLS
// with media looped through the gateway's own test relay. It posts what it saw as Measurements. The gateway adds its own
// half, measured at that moment (Gateway: regions, call servers, whether it drains), and Analyse, a pure function, turns
// both into a verdict and the causes that the measurements support, the likeliest first. The run is kept as a Record
// under a long id, which nobody guesses, and a short code like K7QF-2M, which a person can read out on the telephone.
//
// Each check says how far its proof reaches (Level). Without credentials of the cloud's nothing here proves media beyond
// the gateway, so the best verdict reads "the ways are open, media not proven".
package precall
