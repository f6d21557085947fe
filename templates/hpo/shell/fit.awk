# Fits distance = a + b * speed to a CSV by gradient descent with momentum, and reports the error of every tenth step.
#   by hand:  awk -v lr=0.1 -v momentum=0.8 -f fit.awk cars.csv

BEGIN {
    FS = ","
    # A job reports here. Anything that can append a line of text to a file can do the same.
    folder = ENVIRON["SEARCHKIT_CALLBACK"]
    scalars = folder == "" ? "/dev/stdout" : folder "/scalars.jsonl"
}

FNR > 1 { speed[++n] = $1; distance[n] = $2; sum += $1; squares += $1 * $1 }

END {
    mean = sum / n
    spread = sqrt(squares / n - mean * mean)
    for (step = 1; step <= 100; step++) {
        da = db = error = 0
        for (i = 1; i <= n; i++) {
            x = (speed[i] - mean) / spread  # scaled, so that one learning rate suits both numbers
            miss = a + b * x - distance[i]
            da += miss / n
            db += miss * x / n
            error += miss * miss / n
        }
        va = momentum * va - lr * da
        vb = momentum * vb - lr * db
        a += va
        b += vb
        if (step % 10 == 0) {
            printf "{\"step\": %d, \"rmse\": %.4f}\n", step, sqrt(error) >> scalars
            fflush()  # each line is seen as soon as it is reported
        }
    }
    printf "distance = %.2f + %.2f * speed\n", a - b * mean / spread, b / spread
}
