package precall

import "math"

// The E-model of ITU-T G.107 (06/2015) rates a telephone connection from what is known of it: R, 0 to 100, and from R the mean
// opinion score that listeners would give, 1 to 4.5. All its parameters but delay and loss stand at the Recommendation's defaults
// (Table 2), so that R of a perfect line is 93.2.
const (
	sendLoudness, receiveLoudness = 8.0, 2.0 // SLR, RLR
	sidetone, listenerSidetone    = 15.0, 18.0
	sendD, receiveD               = 3.0, 3.0 // D-values of the telephones
	talkerEcho, weightedEcho      = 65.0, 110.0
	circuitNoise, noiseFloor      = -70.0, -64.0
	roomNoise                     = 35.0 // at both ends
)

// The codec: Opus hides loss at least as well as G.711 with concealment does (G.113 Appendix I: Ie 0, Bpl 25.1).
const lossRobustness = 25.1

// The sound is older than the packet that carried it: a frame of 20 ms, its look-ahead, and a jitter buffer of twice the jitter.
const (
	codecDelay     = 26.5
	leastBuffering = 20.0
)

// meanOpinion is the score of a line with a round trip and a jitter in milliseconds, and a loss in percent each way.
func meanOpinion(rtt, jitter, loss float64) float64 {
	oneWay := rtt/2 + codecDelay + max(leastBuffering, 2*jitter)
	return opinionOf(rating(oneWay, loss, lossRobustness))
}

// rating is R for a one-way delay in milliseconds, a loss in percent and the codec's robustness Bpl against it.
func rating(delay, loss, robustness float64) float64 {
	noise := noiseSum()
	ro := 15 - 1.5*(sendLoudness+noise) // (7-2)
	return ro - simultaneous(ro, noise, delay) - delayed(ro, noise, delay) - equipment(loss, robustness)
}

// noiseSum is No, the sum of all noise (7-3 to 7-7).
func noiseSum() float64 {
	overall := sendLoudness + receiveLoudness
	send := roomNoise - sendLoudness - sendD - 100 + 0.004*square(roomNoise-overall-sendD-14)
	heard := roomNoise + decibel(1+power((10-listenerSidetone)/10))
	receive := receiveLoudness - 121 + heard + 0.008*square(heard-35)
	return decibel(power(circuitNoise/10) + power(send/10) + power(receive/10) + power((noiseFloor+receiveLoudness)/10))
}

// simultaneous is Is: what impairs speech while it is spoken (7-8 to 7-17). One quantizing unit (qdu) is on the line.
func simultaneous(ro, noise, delay float64) float64 {
	overall := sendLoudness + receiveLoudness
	x := overall + 0.2*(64+noise-receiveLoudness)
	tooLoud := 20 * (root(1+math.Pow(x/8, 8), 8) - x/8)
	st := -decibel(power(-sidetone/10) + math.Exp(-delay/4)*power(-talkerEcho/10))
	side := 12*root(1+math.Pow((st-13)/6, 8), 8) - 28*root(1+math.Pow((st+1)/19.4, 35), 35) -
		13*root(1+math.Pow((st-3)/33, 13), 13) + 29
	const q = 37.0 // 37 - 15 lg(qdu)
	g := 1.07 + 0.258*q + 0.0602*q*q
	quantizing := 15 * math.Log10(1+power((ro-100)/15+46/8.4-g/9)+power(46.0/30-g/40))
	return tooLoud + side + quantizing
}

// delayed is Id: talker's echo, listener's echo, and delay itself (7-18 to 7-28).
func delayed(ro, noise, delay float64) float64 {
	echo := talkerEcho - 40*math.Log10((1+delay/10)/(1+delay/150)) + 6*math.Exp(-0.3*delay*delay)
	re, roe := 80+2.5*(echo-14), -1.5*(noise-receiveLoudness)
	talker := ((roe-re)/2 + math.Sqrt(square(roe-re)/4+100) - 1) * (1 - math.Exp(-delay))
	rle := 10.5 * (weightedEcho + 7) * math.Pow(2*delay+1, -0.25)
	listener := (ro-rle)/2 + math.Sqrt(square(ro-rle)/4+169)
	return talker + listener + tooLate(delay)
}

// tooLate is Idd: what delay costs even without any echo, from 100 ms on.
func tooLate(delay float64) float64 {
	if delay <= 100 {
		return 0
	}
	x := math.Log2(delay / 100)
	return 25 * (root(1+math.Pow(x, 6), 6) - 3*root(1+math.Pow(x/3, 6), 6) + 2)
}

// equipment is Ie,eff for random loss (7-29).
func equipment(loss, robustness float64) float64 { return 95 * loss / (loss + robustness) }

// opinionOf is the mean opinion score of a rating (Annex B).
func opinionOf(r float64) float64 {
	switch {
	case r <= 0:
		return 1
	case r >= 100:
		return 4.5
	}
	return max(1, 1+0.035*r+r*(r-60)*(100-r)*7e-6)
}

func square(v float64) float64  { return v * v }
func power(v float64) float64   { return math.Pow(10, v) }
func decibel(v float64) float64 { return 10 * math.Log10(v) }
func root(v, n float64) float64 { return math.Pow(v, 1/n) }
