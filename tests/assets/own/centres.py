"""A neck and a head of one's own: levels of one width, and a detector without anchors, as FCOS (Tian et al. 2019).

model: {neck: "centres.py:Ladder", neck_options: {width: 16}, head: "centres.py:Centres", head_options: {width: 16}}
space: {neck.width: {choices: [8, 16]}, head.depth: {choices: [1, 2]}, …}
"""
